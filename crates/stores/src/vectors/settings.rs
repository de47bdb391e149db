//! `[vectors]`: which vector database a deployment has, for every program that writes or asks it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::postgres::{PostgresOptions, PostgresVectors};
use super::s3::{S3Vectors, S3VectorsOptions};
use super::{Access, EmbeddedOptions, EmbeddedVectors, VectorError, VectorStore, secret};
use crate::lake::{LakeError, ObjectPath, ObjectStore as _, RemoteStore, S3Options};

/// Kinds of vector databases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VectorKind {
    /// In the folder `vectors` of `home`.
    #[default]
    Embedded,
    /// PostgreSQL with pgvector.
    Postgres,
    /// Amazon S3 Vectors.
    S3Vectors,
}

/// Which vector database, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VectorSettings {
    /// `embedded`, `postgres` or `s3-vectors`.
    pub kind: VectorKind,
    /// Whether users' embeddings go there, too. Nothing here asks for them; they are for analyses of yours.
    pub users: bool,
    /// PostgreSQL.
    pub postgres: PostgresSettings,
    /// S3 Vectors.
    pub s3: S3VectorsSettings,
}

impl Default for VectorSettings {
    fn default() -> Self {
        Self {
            kind: VectorKind::Embedded,
            users: true,
            postgres: PostgresSettings::default(),
            s3: S3VectorsSettings::default(),
        }
    }
}

/// PostgreSQL with pgvector 0.8 or newer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresSettings {
    /// `postgres://user@host:5432/database?sslmode=require`.
    pub url: String,
    /// The password, unless the URL has it.
    #[serde(serialize_with = "hidden")]
    pub password: String,
    /// A secret of AWS Secrets Manager with `username` and `password`, in place of both; its ARN.
    pub secret_arn: String,
    /// Certificates (PEM) that the server's must be signed by, a path or `s3://bucket/key`; the platform's if empty.
    pub ca_file: String,
    /// The schema that everything lies in.
    pub schema: String,
}

impl Default for PostgresSettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            password: String::new(),
            secret_arn: String::new(),
            ca_file: String::new(),
            schema: "anabranch".to_owned(),
        }
    }
}

impl std::fmt::Debug for PostgresSettings {
    /// Secrets stay out of logs, and a URL may hold one.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PostgresSettings")
            .field("secret_arn", &self.secret_arn)
            .field("ca_file", &self.ca_file)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// Secrets are read, never printed.
fn hidden<S: serde::Serializer>(_secret: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("")
}

/// Amazon S3 Vectors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3VectorsSettings {
    /// Name of the vector bucket.
    pub bucket: String,
    /// Region of the bucket; that of the environment if empty.
    pub region: String,
    /// In place of AWS's endpoint; that of the environment (`AWS_ENDPOINT_URL_S3VECTORS`, then `AWS_ENDPOINT_URL`) if empty.
    pub endpoint_url: String,
}

/// Where a database is opened from: what the settings cannot say.
pub struct VectorPlaces<'a> {
    /// The folder of an embedded one.
    pub folder: Option<&'a Path>,
    /// Whether to write.
    pub access: Access,
    /// Decides how waits between attempts are jittered; another for each process.
    pub seed: u64,
    /// Looks a variable of the environment up: regions, keys and endpoints by the names that AWS's own tools read.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

impl std::fmt::Debug for VectorPlaces<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { folder, access, .. } = self;
        formatter.debug_struct("VectorPlaces").field("folder", folder).field("access", access).finish_non_exhaustive()
    }
}

impl VectorSettings {
    /// Checks what `kind` needs.
    pub fn check(&self) -> Result<(), String> {
        let problem = match self.kind {
            VectorKind::Postgres if self.postgres.url.is_empty() => {
                "postgres.url is empty: postgres://user@host:5432/database?sslmode=require"
            }
            VectorKind::Postgres if !self.postgres.password.is_empty() && !self.postgres.secret_arn.is_empty() => {
                "postgres.password and postgres.secret_arn: one of them"
            }
            VectorKind::S3Vectors if self.s3.bucket.is_empty() => "s3.bucket is empty: the name of the vector bucket",
            _ => return Ok(()),
        };
        Err(format!("[vectors] {problem}"))
    }

    fn open_postgres(&self, places: &VectorPlaces<'_>) -> Result<PostgresVectors, VectorError> {
        let given = &self.postgres;
        let mut options = PostgresOptions { schema: given.schema.clone(), ..PostgresOptions::new(&given.url) };
        if !given.password.is_empty() {
            options.password = Some(given.password.clone());
        }
        let s3 = || S3Options::from_environment(places.variable);
        if !given.secret_arn.is_empty() {
            let read = |name: &str| (places.variable)(name).filter(|value| !value.is_empty());
            let endpoint = read("AWS_ENDPOINT_URL_SECRETS_MANAGER").or_else(|| read("AWS_ENDPOINT_URL"));
            let login = secret::read(&given.secret_arn, endpoint.as_deref(), &s3())?;
            options.user = login.username;
            options.password = Some(login.password);
        }
        if let Some((bucket, key)) = given.ca_file.strip_prefix("s3://").and_then(|rest| rest.split_once('/')) {
            let unread = |error: LakeError| VectorError::Settings {
                problem: format!("[vectors] postgres.ca_file = {:?}: {error}", given.ca_file),
            };
            let store = RemoteStore::s3(bucket, "", &s3()).map_err(unread)?;
            let pem = ObjectPath::new(key).and_then(|key| store.get(&key)).map_err(unread)?;
            options.authorities = Some(pem.to_vec());
        } else if !given.ca_file.is_empty() {
            options.authorities = Some(std::fs::read(&given.ca_file).map_err(|error| VectorError::Settings {
                problem: format!("[vectors] postgres.ca_file = {:?}: {error}", given.ca_file),
            })?);
        }
        PostgresVectors::open(options)
    }

    /// What people read where the database is.
    pub fn place(&self, folder: &Path) -> String {
        match self.kind {
            VectorKind::Embedded => folder.display().to_string(),
            VectorKind::Postgres => format!("PostgreSQL, schema {}", self.postgres.schema),
            VectorKind::S3Vectors => format!("S3 Vectors, bucket {}", self.s3.bucket),
        }
    }

    /// Opens the database.
    pub fn open(&self, places: &VectorPlaces<'_>) -> Result<Box<dyn VectorStore>, VectorError> {
        self.check().map_err(|problem| VectorError::Settings { problem })?;
        match self.kind {
            VectorKind::Embedded => {
                let folder = places.folder.ok_or_else(|| VectorError::Settings {
                    problem: "[vectors] kind = \"embedded\" has no folder here; give one, or name a server's kind"
                        .to_owned(),
                })?;
                let options = EmbeddedOptions { access: places.access, ..EmbeddedOptions::default() };
                Ok(Box::new(EmbeddedVectors::open(folder, options)?))
            }
            VectorKind::Postgres => Ok(Box::new(self.open_postgres(places)?)),
            VectorKind::S3Vectors => {
                let mut options = S3VectorsOptions::from_environment(&self.s3.bucket, places.variable);
                if !self.s3.region.is_empty() {
                    options.s3.region = Some(self.s3.region.clone());
                }
                if !self.s3.endpoint_url.is_empty() {
                    options.endpoint = Some(self.s3.endpoint_url.clone());
                }
                options.jitter_seed = places.seed;
                Ok(Box::new(S3Vectors::connect(options)?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn places(folder: Option<&Path>) -> VectorPlaces<'_> {
        VectorPlaces { folder, access: Access::ReadWrite, seed: 1, variable: &|_| None }
    }

    #[test]
    fn what_a_kind_needs_is_asked_for() {
        let postgres = |url: &str, password: &str, secret_arn: &str| VectorSettings {
            kind: VectorKind::Postgres,
            postgres: PostgresSettings {
                url: url.to_owned(),
                password: password.to_owned(),
                secret_arn: secret_arn.to_owned(),
                ..PostgresSettings::default()
            },
            ..VectorSettings::default()
        };
        let cases = [
            (postgres("", "", ""), "postgres.url is empty"),
            (postgres("postgres://me@db/shop", "p", "arn"), "one of them"),
            (postgres("postgres://me@db/shop", "", "no arn"), "secret_arn"),
            (VectorSettings { kind: VectorKind::S3Vectors, ..VectorSettings::default() }, "s3.bucket is empty"),
            (VectorSettings::default(), "has no folder here"),
        ];
        for (settings, part) in cases {
            let error = settings.open(&places(None)).map(|_| ()).expect_err(part);
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.kind(), ErrorKind::FixInput);
        }
        let mut missing = postgres("postgres://me@db/shop", "", "");
        "/nowhere/ca.pem".clone_into(&mut missing.postgres.ca_file);
        let error = missing.open(&places(None)).map(|_| ()).expect_err("no such file");
        assert!(error.to_string().contains("ca_file"), "{error}");
    }

    #[test]
    fn secrets_are_read_and_not_shown() {
        let text = r#"{"kind": "postgres", "postgres": {"url": "postgres://me:hush@db/shop", "password": "hush"}}"#;
        let settings: VectorSettings = serde_json::from_str(text).expect("it is one");
        assert_eq!(settings.postgres.password, "hush");
        assert!(!format!("{settings:?}").contains("hush"));
        assert!(!settings.place(Path::new("")).contains("hush"));
        let shown = serde_json::to_value(&settings).expect("plain data");
        assert_eq!(shown["postgres"]["password"], "");
    }

    #[test]
    fn the_embedded_one_is_the_default() {
        let folder = tempfile::tempdir().expect("a folder");
        let opened = VectorSettings::default().open(&places(Some(folder.path()))).expect("opens");
        assert!(opened.versions("items").expect("lists").is_empty());
    }
}
