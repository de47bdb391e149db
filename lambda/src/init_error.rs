//! Tells Lambda why a function does not start: `POST /runtime/init/error` of the Runtime API.
//!
//! Whoever invoked the function is then told the reason, and not only that its process ended. `lambda_runtime` reports
//! what fails once it runs; settings, credentials and the model are looked at before that, so that no invocation is taken
//! that cannot be answered. One request over the machine's own loopback, bounded in time; no answer changes anything.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// The variable that names the Runtime API, as `host:port`.
pub const RUNTIME_API: &str = "AWS_LAMBDA_RUNTIME_API";

const PATIENCE: Duration = Duration::from_secs(2);

/// Reports `error` to the Runtime API at `api`.
pub fn report(api: &str, error: &str) -> io::Result<()> {
    let body =
        serde_json::json!({ "errorMessage": error, "errorType": "Function.NotReady", "stackTrace": [] }).to_string();
    let address = api.to_socket_addrs()?.next().ok_or_else(|| io::Error::other(format!("{api} has no address")))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nHost: {api}\r\nContent-Type: application/json\r\n\
         Lambda-Runtime-Function-Error-Type: Function.NotReady\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    // Its first byte: the report was read.
    stream.read_exact(&mut [0])
}
