//! Notifications by webhook: a POST of the JSON body, signed so that the receiver knows whose it is.
//!
//! | header | value |
//! |---|---|
//! | `Content-Type` | `application/json` |
//! | `Anabranch-Notification-Id` | the id: 32 hexadecimal digits, equal for a repeat |
//! | `Anabranch-Timestamp` | when it was signed: seconds since 1970, in decimal |
//! | `Anabranch-Signature` | `v1=` and 64 hexadecimal digits: HMAC-SHA-256 over `timestamp.body` under the shared secret |
//!
//! A receiver computes the signature over the bytes that it got, compares in constant time, refuses a timestamp that is
//! more than five minutes away, and drops an id that it has. Any 2xx says that it has the notification. 400, 410, 413 and
//! 422 say that it will never take it. Anything else, and a connection that fails, is tried again: somebody may repair the
//! receiver. A redirect is not followed, since the body names a person.

use std::fmt;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use ureq::Agent;

use super::channel::{Channel, SendError};
use super::notice::Notification;

/// The header of the id.
pub const ID_HEADER: &str = "Anabranch-Notification-Id";
/// The header of the time of signing.
pub const TIMESTAMP_HEADER: &str = "Anabranch-Timestamp";
/// The header of the signature.
pub const SIGNATURE_HEADER: &str = "Anabranch-Signature";
/// Least length of a secret.
pub const SECRET_BYTES_MIN: usize = 16;

/// The shared secret of the signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A secret as a file holds it: a final line break does not count. `None` if it is too short to be one.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        (bytes.len() >= SECRET_BYTES_MIN).then(|| Self(bytes.to_vec()))
    }

    /// The signature of a body, as its header has it.
    pub fn sign(&self, timestamp_s: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(timestamp_s.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        let digits = mac.finalize().into_bytes();
        digits.iter().fold("v1=".to_owned(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// POSTs notifications.
#[derive(Debug)]
pub struct Webhook {
    agent: Agent,
    url: String,
    secret: Secret,
}

impl Webhook {
    /// To `url`, signed with `secret`; a POST may take `timeout_ms` in all.
    pub fn new(url: impl Into<String>, secret: Secret, timeout_ms: u64) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(Duration::from_millis(timeout_ms)))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent("anabranch")
            .build();
        Self { agent: config.into(), url: url.into(), secret }
    }
}

impl Channel for Webhook {
    fn send(&mut self, notification: &Notification, now_ms: i64) -> Result<(), SendError> {
        let timestamp_s = now_ms.div_euclid(1000);
        let body = notification.body.as_bytes();
        let answer = self
            .agent
            .post(&self.url)
            .header("Content-Type", "application/json")
            .header(ID_HEADER, &notification.id)
            .header(TIMESTAMP_HEADER, timestamp_s.to_string())
            .header(SIGNATURE_HEADER, self.secret.sign(timestamp_s, body))
            .send(body);
        match answer {
            Ok(answer) => judge(&self.url, answer.status().as_u16()),
            Err(error @ (ureq::Error::BadUri(_) | ureq::Error::Http(_))) => {
                Err(SendError::Refused(format!("{}: {error}; check [notify.webhook] url", self.url)))
            }
            Err(error) => Err(SendError::Retry(format!("{}: {error}", self.url))),
        }
    }
}

/// What a status says.
fn judge(url: &str, status: u16) -> Result<(), SendError> {
    match status {
        200..=299 => Ok(()),
        400 | 410 | 413 | 422 => Err(SendError::Refused(format!("{url} answers {status}: it does not want this"))),
        _ => Err(SendError::Retry(format!("{url} answers {status}, not 2xx"))),
    }
}

#[cfg(test)]
mod tests;
