//! The server on a real socket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::{World, settings};
use crate::serve;

/// Sends text and reads until `wanted` was seen or the connection ends.
async fn talk(connection: &TcpStream, text: &str, wanted: &str) -> String {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        connection.writable().await.unwrap();
        match connection.try_write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&got).contains(wanted) {
        connection.readable().await.unwrap();
        match connection.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => got.extend_from_slice(&buffer[..count]),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    String::from_utf8(got).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_answers_keeps_alive_and_stops_while_idle_connections_stay() {
    let world = World::new(settings());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, Arc::clone(&world.app), async move {
        drop(stopped.await);
    }));
    let connection = TcpStream::connect(address).await.unwrap();
    for _ in 0..3 {
        let got = talk(&connection, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", "}").await;
        assert!(got.starts_with("HTTP/1.1 200") && got.ends_with(r#"{"status":"ok"}"#), "{got}");
    }
    let too_long = format!("POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", (16 << 20) + 1);
    let other = TcpStream::connect(address).await.unwrap();
    let got = talk(&other, &too_long, "}").await;
    assert!(got.starts_with("HTTP/1.1 413"), "the length alone is enough to refuse: {got}");
    let garbage = TcpStream::connect(address).await.unwrap();
    assert!(talk(&garbage, "\u{0}\u{1}nonsense\r\n\r\n", "\r\n").await.starts_with("HTTP/1.1 400"));
    let asked = Instant::now();
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(5), "an idle connection does not hold it up");
}
