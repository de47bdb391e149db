//! What the programs do before their first invocation, against a Runtime API of our own on the loopback: a model that is
//! not there or does not open is told to Lambda, and no invocation is asked for; a good one is mapped before.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anabranch_stores::lake::{ObjectStore, S3Options, StoreOptions, open_store};
use anabranch_stores::registry::ModelRegistry;
use anabranch_stream::testing::{NOW_MS, snapshot};

const PROGRAMS: [&str; 2] = [env!("CARGO_BIN_EXE_stream"), env!("CARGO_BIN_EXE_transform")];
/// Longer than any start here; a program that asks nothing in this time hangs.
const START_MAX: Duration = Duration::from_mins(1);

/// One request of the Runtime API's client.
#[derive(Debug)]
struct Request {
    path: String,
    headers: BTreeMap<String, String>,
    body: String,
    stream: TcpStream,
}

fn read(stream: TcpStream) -> Request {
    stream.set_read_timeout(Some(START_MAX)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let path = line.split(' ').nth(1).unwrap().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    Request { path, headers, body: String::from_utf8(body).unwrap(), stream }
}

/// A program under way, and the Runtime API that it was told of.
struct Started {
    program: Child,
    api: TcpListener,
}

impl Started {
    fn new(program: &str, folder: &Path, more: &[(&str, &str)]) -> Self {
        let api = TcpListener::bind("127.0.0.1:0").unwrap();
        let text = |path: &str| folder.join(path).to_str().unwrap().to_owned();
        let program = Command::new(program)
            .env_clear()
            .env("AWS_LAMBDA_RUNTIME_API", api.local_addr().unwrap().to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "f")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "g")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "s")
            .env("AWS_REGION", "eu-west-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("ANABRANCH__PLACES__LAKE", text("lake"))
            .env("ANABRANCH__PLACES__DELIVERED", text("delivered"))
            .env("ANABRANCH__LAMBDA__TABLE", "state")
            .env("ANABRANCH__LAMBDA__NAMESPACE", "clicks-1")
            .env("ANABRANCH__LAMBDA__ERASURE_KEY", "07".repeat(32))
            .env("ANABRANCH__LAMBDA__CACHE_FOLDER", text("cache"))
            .envs(more.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { program, api }
    }

    /// The next request, or `None` once the program ended without one.
    fn request(&mut self) -> Option<Request> {
        self.api.set_nonblocking(true).unwrap();
        let until = std::time::Instant::now() + START_MAX;
        loop {
            let is_ended = self.program.try_wait().unwrap().is_some();
            match self.api.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    return Some(read(stream));
                }
                Err(_) if is_ended => return None,
                Err(_) => assert!(std::time::Instant::now() < until, "the program asks nothing"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What Lambda is told, by a program that asks for no invocation.
    fn init_error(mut self) -> serde_json::Value {
        let mut request = self.request().unwrap();
        assert_eq!(request.path, "/2018-06-01/runtime/init/error");
        assert_eq!(request.headers["lambda-runtime-function-error-type"], "Function.NotReady");
        request.stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").unwrap();
        assert!(self.request().is_none(), "no invocation is asked for");
        assert!(!self.program.wait().unwrap().success());
        serde_json::from_str(&request.body).unwrap()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn promote(folder: &Path, bytes: &[u8]) {
    let stores = StoreOptions { process_started: std::time::SystemTime::now(), s3: S3Options::default() };
    let lake: Arc<dyn ObjectStore> = Arc::from(open_store(folder.join("lake").to_str().unwrap(), &stores).unwrap());
    let registry = ModelRegistry::new(lake);
    let file = folder.join("trained.anb");
    std::fs::write(&file, bytes).unwrap();
    let manifest = registry.publish(&file, &serde_json::json!({}), NOW_MS).unwrap();
    registry.promote(manifest.version.as_str(), "test", NOW_MS).unwrap();
}

/// The snapshot's file in the lake.
fn promoted(folder: &Path) -> std::path::PathBuf {
    let models = std::fs::read_dir(folder.join("lake/models")).unwrap();
    models.map(|entry| entry.unwrap().path().join("snapshot.anb")).find(|path| path.is_file()).unwrap()
}

#[test]
fn without_a_valid_model_lambda_is_told_and_no_invocation_is_taken() {
    for program in PROGRAMS {
        let folder = tempfile::tempdir().unwrap();
        let told = Started::new(program, folder.path(), &[]).init_error();
        assert!(told["errorMessage"].as_str().unwrap().contains("no model is published"), "{told}");

        promote(folder.path(), &snapshot());
        let file = promoted(folder.path());
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
        let told = Started::new(program, folder.path(), &[]).init_error();
        assert!(told["errorMessage"].as_str().unwrap().contains("current model"), "{told}");
    }
}

#[test]
fn a_mistake_in_the_settings_is_told_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let told = Started::new(PROGRAMS[0], folder.path(), &[("ANABRANCH__LAMBDA__TABEL", "x")]).init_error();
    assert!(told["errorMessage"].as_str().unwrap().contains("tabel"), "{told}");
}

/// At the moment when the first invocation is asked for, the process has the snapshot mapped.
#[test]
#[cfg(target_os = "linux")]
fn the_model_is_mapped_before_the_first_invocation_is_asked_for() {
    for program in PROGRAMS {
        let folder = tempfile::tempdir().unwrap();
        promote(folder.path(), &snapshot());
        let mut started = Started::new(program, folder.path(), &[]);
        let request = started.request().unwrap();
        assert_eq!(request.path, "/2018-06-01/runtime/invocation/next");
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", started.program.id())).unwrap();
        assert!(maps.lines().any(|line| line.contains(".anb")), "{maps}");
    }
}
