//! Where to connect: the options' URL, checked, with TLS decided.

use std::fmt::Write as _;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use super::PostgresOptions;
use super::tls::{Tls, Trust};
use crate::vectors::VectorError;

/// Longest name of a schema: PostgreSQL cuts identifiers at 63 bytes.
const SCHEMA_BYTES_MAX: usize = 63;
/// A silent server is given up after this; a search is never this quiet on a working network, and keepalives speak
/// for a server that is busy with an index.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// A server and how to speak to it.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) tls: Tls,
    pub(super) connect_timeout: Duration,
    /// The server and schema in words, without secrets, for messages.
    pub(super) place: String,
}

impl Target {
    pub(super) fn new(options: &PostgresOptions) -> Result<Self, VectorError> {
        let unusable = |place: &str, reason: String| VectorError::Setup { place: place.to_owned(), reason };
        // Texts of the parser name the setting that is wrong, never its value.
        let (url, verify_named) = plain_ssl_mode(&options.url);
        let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
            unusable("PostgreSQL", format!("its URL is malformed: {}", super::failure::with_sources(&error)))
        })?;
        let place = place(&config, &options.schema);
        check_schema(&options.schema).map_err(|reason| unusable(&place, reason))?;
        if let Some(user) = &options.user {
            config.user(user);
        }
        if config.get_user().is_none() {
            return Err(unusable(&place, "its URL names no user: postgres://user@host/database".to_owned()));
        }
        if let Some(password) = &options.password {
            config.password(password);
        }
        config.application_name("anabranch").connect_timeout(options.connect_timeout);
        config.keepalives(true).keepalives_idle(SILENCE_MAX / 2).keepalives_interval(SILENCE_MAX / 6);
        config.tcp_user_timeout(SILENCE_MAX);
        let verify = verify_named || config.get_ssl_mode() == SslMode::Require;
        let trust = match (&options.authorities, config.get_ssl_mode()) {
            (Some(_), SslMode::Disable) => {
                return Err(unusable(&place, "authorities are given, yet its URL says sslmode=disable".into()));
            }
            (Some(pem), _) => Trust::Authorities(pem.clone()),
            (None, _) if verify => Trust::Platform,
            (None, _) => Trust::Anyone,
        };
        // TLS does not exist on local sockets, and nobody stands between.
        let local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        if local && config.get_hostaddrs().is_empty() {
            config.ssl_mode(SslMode::Disable);
        } else if trust != Trust::Anyone {
            config.ssl_mode(SslMode::Require);
        }
        let tls = Tls::new(&trust).map_err(|reason| unusable(&place, reason))?;
        Ok(Self { config, tls, connect_timeout: options.connect_timeout, place })
    }
}

/// The client knows three modes; libpq's stricter ones are `require` with verification.
fn plain_ssl_mode(url: &str) -> (String, bool) {
    let mut plain = url.to_owned();
    for mode in ["sslmode=verify-full", "sslmode=verify-ca"] {
        plain = plain.replace(mode, "sslmode=require");
    }
    let named = plain != url;
    (plain, named)
}

fn check_schema(schema: &str) -> Result<(), String> {
    let plain = schema.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let named = schema.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
    if plain && named && schema.len() <= SCHEMA_BYTES_MAX && !schema.starts_with("pg_") {
        return Ok(());
    }
    Err(format!(
        "{schema:?} is no schema name: use 1 to {SCHEMA_BYTES_MAX} lower-case letters, digits and '_', a letter first, not \"pg_\""
    ))
}

fn place(config: &Config, schema: &str) -> String {
    let mut place = format!("schema {schema} of postgres://");
    for (index, host) in config.get_hosts().iter().enumerate() {
        let port = config.get_ports().get(index).or(config.get_ports().first()).copied().unwrap_or(5432);
        let separator = if index == 0 { "" } else { "," };
        let written = match host {
            // An unescaped '@' in a password would end up in the host.
            Host::Tcp(host) => {
                let host = host.rsplit('@').next().unwrap_or_default();
                write!(place, "{separator}{host}:{port}")
            }
            Host::Unix(folder) => write!(place, "{separator}{}", folder.display()),
        };
        written.expect("a String takes any text");
    }
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("{place}/{database}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, VectorError> {
        Target::new(&PostgresOptions::new(url))
    }

    #[test]
    fn the_place_has_no_password() {
        let place = |url: &str| target(url).map(|target| target.place).unwrap_or_default();
        assert_eq!(
            place("postgres://me:secret@db.example/shop"),
            "schema anabranch of postgres://db.example:5432/shop"
        );
        assert_eq!(
            place("postgresql://me@[::1]:6543/shop?sslmode=verify-full"),
            "schema anabranch of postgres://::1:6543/shop"
        );
        assert_eq!(place("postgres://me@/shop?host=/run/pg"), "schema anabranch of postgres:///run/pg/shop");
        for url in
            ["postgres://me:sec@ret@db/shop", "postgres://me:secret@db:port/shop", "postgres://me:secret@db/s?x=y"]
        {
            let told = match target(url) {
                Ok(target) => target.place,
                Err(error) => error.to_string(),
            };
            assert!(!told.contains("sec"), "{told}");
            let options = PostgresOptions { password: Some("secret".into()), ..PostgresOptions::new(url) };
            assert!(!format!("{options:?}").contains("sec"), "{options:?}");
        }
    }

    #[test]
    fn bad_settings_are_refused() {
        let refused = |options: PostgresOptions| Target::new(&options).err().map(|error| error.kind());
        let fix = Some(crate::ErrorKind::FixInput);
        let good = PostgresOptions::new("postgres://me@db/shop");
        assert_eq!(refused(good.clone()), None);
        for url in ["", "mysql://me@db/shop", "postgres://db/shop", "postgres://me@db/shop?sslmode=maybe"] {
            assert_eq!(refused(PostgresOptions::new(url)), fix, "{url}");
        }
        for schema in ["", "A", "a b", "a\"b", "pg_x", "1a", &"x".repeat(64)] {
            assert_eq!(refused(PostgresOptions { schema: schema.to_owned(), ..good.clone() }), fix, "{schema}");
        }
        let authorities = Some(b"no certificate".to_vec());
        assert_eq!(refused(PostgresOptions { authorities: authorities.clone(), ..good }), fix);
        let plain = PostgresOptions::new("postgres://me@db/shop?sslmode=disable");
        assert_eq!(refused(PostgresOptions { authorities, ..plain }), fix);
    }

    #[test]
    fn require_verifies_and_a_socket_needs_no_tls() {
        let mode = |url: &str| target(url).map(|target| target.config.get_ssl_mode()).ok();
        assert_eq!(mode("postgres://me@db/shop"), Some(SslMode::Prefer));
        assert_eq!(mode("postgres://me@db/shop?sslmode=disable"), Some(SslMode::Disable));
        assert_eq!(mode("postgres://me@db/shop?sslmode=verify-ca"), Some(SslMode::Require));
        assert_eq!(mode("postgres://me@/shop?host=/run/pg&sslmode=require"), Some(SslMode::Disable));
    }
}
