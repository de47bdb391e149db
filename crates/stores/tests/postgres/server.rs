//! The server under test: a schema or a database for one test, and plain SQL beside the store.

use std::time::Duration;

use anabranch_stores::vectors::PostgresOptions;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// A place of one test's own; removed at its end.
pub(crate) struct Place {
    url: String,
    schema: String,
    database: Option<String>,
}

impl Place {
    /// A schema of the given server's database; `None`, and a word about it, if no server is given.
    pub(crate) fn schema(name: &str) -> Option<Self> {
        let Ok(url) = std::env::var("ANABRANCH_TEST_POSTGRES_URL") else {
            println!("skipped: set ANABRANCH_TEST_POSTGRES_URL to a server with pgvector to run this test");
            return None;
        };
        Some(Self { url, schema: format!("test_{}_{name}", std::process::id()), database: None })
    }

    /// A database, so that its connections can be told from those of other tests.
    pub(crate) fn database(name: &str) -> Option<Self> {
        let admin = Self::schema(name)?;
        let database = admin.schema.clone();
        admin.run(&format!("CREATE DATABASE {database}"));
        Some(Self { url: admin.url.clone(), schema: "anabranch".to_owned(), database: Some(database) })
    }

    pub(crate) fn schema_name(&self) -> &str {
        &self.schema
    }

    pub(crate) fn options(&self) -> PostgresOptions {
        let mut options = PostgresOptions::new(self.url_of(self.database.as_deref()));
        options.schema.clone_from(&self.schema);
        options
    }

    /// The administrator's URL with another database or user.
    pub(crate) fn url_of(&self, database: Option<&str>) -> String {
        let Some(database) = database else { return self.url.clone() };
        let (address, query) = self.url.split_once('?').unwrap_or((&self.url, ""));
        let (server, _) = address.rsplit_once('/').expect("the URL names a database");
        format!("{server}/{database}?{query}")
    }

    pub(crate) fn run(&self, sql: &str) -> Vec<String> {
        run(&self.url_of(self.database.as_deref()), sql).unwrap()
    }

    /// The same as the administrator of the first database.
    pub(crate) fn run_outside(&self, sql: &str) -> Vec<String> {
        run(&self.url, sql).unwrap()
    }

    /// Polls a count until it is as wished.
    pub(crate) fn wait_until(&self, sql: &str, wished: impl Fn(i64) -> bool) {
        for _ in 0..300 {
            let count: i64 = self.run(sql)[0].parse().unwrap();
            if wished(count) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("not within half a minute: {sql}");
    }

    /// Ends every connection to this test's database, as a restart or a network that breaks does.
    pub(crate) fn cut(&self) -> usize {
        let database = self.database.as_ref().unwrap();
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' AND application_name = 'anabranch'"
        );
        run(&self.url, &sql).unwrap().len()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let removed = match &self.database {
            Some(database) => run(&self.url, &format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)")),
            None => run(
                &self.url,
                &format!("SET client_min_messages = warning; DROP SCHEMA IF EXISTS {} CASCADE", self.schema),
            ),
        };
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// Runs SQL and returns the first column of its last rows.
pub(crate) fn run(url: &str, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config: Config = url.parse()?;
        let (client, connection): (Client, _) = config.connect(NoTls).await?;
        let connection = tokio::spawn(connection);
        let messages = client.simple_query(sql).await?;
        drop(client);
        let _ = connection.await;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
                _ => None,
            })
            .collect())
    })
}
