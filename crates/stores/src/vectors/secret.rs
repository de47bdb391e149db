//! A database's user and password from AWS Secrets Manager: one call, when the database is opened. The service changes
//! passwords of the databases that it manages, so what was read is not kept anywhere.

use serde::Deserialize;

use super::VectorError;
use crate::ErrorKind;
use crate::lake::S3Options;
use crate::signed::{PostError, SignedClient};

/// The name that signatures are made for.
const SERVICE: &str = "secretsmanager";

/// What a secret of a database holds.
#[derive(Deserialize)]
pub(super) struct Login {
    pub(super) username: Option<String>,
    pub(super) password: String,
}

/// Reads the secret with this ARN, in the ARN's region. `endpoint` is in place of AWS's.
pub(super) fn read(arn: &str, endpoint: Option<&str>, s3: &S3Options) -> Result<Login, VectorError> {
    let failed = |detail: String, kind: ErrorKind| VectorError::Service {
        action: "read the password from",
        place: format!("the secret {arn}"),
        detail,
        kind,
    };
    let (partition, region) = region_of(arn).ok_or_else(|| {
        let problem =
            format!("[vectors] postgres.secret_arn = {arn:?}: arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME");
        VectorError::Settings { problem }
    })?;
    let suffix = if partition == "aws-cn" { "amazonaws.com.cn" } else { "amazonaws.com" };
    let own = format!("https://{SERVICE}.{region}.{suffix}");
    let client = SignedClient::new(SERVICE, endpoint.unwrap_or(&own), region, s3, "anabranch-secret")
        .map_err(|problem| failed(problem, ErrorKind::FixInput))?;
    let body = serde_json::json!({ "SecretId": arn }).to_string().into_bytes();
    let answer = client.post("/", "application/x-amz-json-1.1", Some("secretsmanager.GetSecretValue"), body).map_err(
        |error| match error {
            PostError::Unavailable(detail) => failed(detail, ErrorKind::Retry),
            PostError::Denied(detail) | PostError::Invalid(detail) | PostError::TooLarge(detail) => {
                failed(detail, ErrorKind::FixInput)
            }
        },
    )?;
    if answer.status != 200 {
        let kind = match answer.status {
            429 | 500.. => ErrorKind::Retry,
            _ => ErrorKind::FixInput,
        };
        // An error's body names the secret and the caller, never the value.
        let told: String = String::from_utf8_lossy(&answer.body).chars().take(300).collect();
        return Err(failed(format!("{} {told}", answer.status), kind));
    }
    login(&answer.body)
        .ok_or_else(|| failed("it is no JSON object with `password` (and `username`)".to_owned(), ErrorKind::FixInput))
}

/// Partition and region of `arn:PARTITION:secretsmanager:REGION:…`.
fn region_of(arn: &str) -> Option<(&str, &str)> {
    let parts: Vec<&str> = arn.split(':').collect();
    let is_secret = parts.len() >= 7 && parts[0] == "arn" && parts[2] == SERVICE && parts[5] == "secret";
    (is_secret && !parts[3].is_empty()).then(|| (parts[1], parts[3]))
}

fn login(body: &[u8]) -> Option<Login> {
    #[derive(Deserialize)]
    struct Value {
        #[serde(rename = "SecretString")]
        text: String,
    }
    let value: Value = serde_json::from_slice(body).ok()?;
    serde_json::from_str(&value.text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_its_region() {
        let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:rds!cluster-1-AbCdEf";
        assert_eq!(region_of(arn), Some(("aws", "eu-west-1")));
        for bad in ["", "db-password", "arn:aws:s3:::bucket", "arn:aws:secretsmanager::123456789012:secret:x"] {
            assert_eq!(region_of(bad), None, "{bad}");
            let refused = read(bad, None, &S3Options::default()).map(|_| ());
            assert!(refused.is_err_and(|error| error.kind() == ErrorKind::FixInput), "{bad}");
        }
    }

    #[test]
    fn a_login_is_read_as_rds_writes_it() {
        let body = br#"{"ARN":"a","Name":"n","SecretString":"{\"username\":\"anabranch\",\"password\":\"p:w\"}"}"#;
        let found = login(body).map(|login| (login.username, login.password));
        assert_eq!(found, Some((Some("anabranch".to_owned()), "p:w".to_owned())));
        for bad in
            [&b"{}"[..], br#"{"SecretString":"plain"}"#, br#"{"SecretString":"{\"username\":\"x\"}"}"#, b"<html>"]
        {
            assert!(login(bad).is_none());
        }
    }

    #[test]
    fn nobody_there_is_passing_trouble() {
        let keys = S3Options {
            access_key_id: Some("test".to_owned()),
            secret_access_key: Some("test".to_owned()),
            ..S3Options::default()
        };
        let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:x";
        let refused = read(arn, Some("http://127.0.0.1:1"), &keys).map(|_| ());
        assert!(refused.is_err_and(|error| error.kind() == ErrorKind::Retry));
    }
}
