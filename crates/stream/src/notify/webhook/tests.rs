#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW_MS: i64 = 1_700_000_000_999;

fn secret() -> Secret {
    Secret::new(SECRET).unwrap()
}

fn notification() -> Notification {
    let id = "00112233445566778899aabbccddeeff".to_owned();
    Notification { id, group: "g".to_owned(), rule: "r".to_owned(), body: r#"{"a":"ä"}"#.to_owned() }
}

/// What a receiver read: the head's lines, the body.
type Request = (Vec<String>, Vec<u8>);

fn read(stream: &mut TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    let length = head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap()];
    reader.read_exact(&mut body).unwrap();
    (head, body)
}

/// A receiver on a port of its own that answers one request; `None` reads it and says nothing.
fn receiver(answer: Option<&'static str>) -> (String, JoinHandle<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hooks?a=b", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = read(&mut stream);
        match answer {
            Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
            // Until the sender gives up.
            None => drop(stream.read(&mut [0])),
        }
        request
    });
    (url, thread)
}

/// Computed with Python's hmac module: HMAC-SHA-256 over `1700000000.{"a":"ä"}`.
#[test]
fn the_signature_is_frozen() {
    let signature = secret().sign(1_700_000_000, r#"{"a":"ä"}"#.as_bytes());
    assert_eq!(signature, "v1=8b4d3d6c1f91b2365abe423f47c74b4a72f0c9006103d57cc907a23d20562a29");
    assert_ne!(secret().sign(1_700_000_001, r#"{"a":"ä"}"#.as_bytes()), signature);
}

#[test]
fn a_secret_is_long_enough_and_never_printed() {
    let with_line_break = [SECRET, b"\r\n"].concat();
    assert_eq!(Secret::new(&with_line_break), Some(secret()));
    assert_eq!(Secret::new(b"fifteen bytes.."), None);
    assert_eq!(Secret::new(b"fifteen bytes..\n"), None);
    let webhook = Webhook::new("http://x", secret(), 100);
    assert!(!format!("{webhook:?}").contains("0123456789abcdef"));
}

#[test]
fn a_receiver_gets_the_body_and_can_check_it() {
    let (url, thread) = receiver(Some("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"));
    Webhook::new(url, secret(), 5000).send(&notification(), NOW_MS).unwrap();
    let (head, body) = thread.join().unwrap();
    assert_eq!(head[0], "POST /hooks?a=b HTTP/1.1");
    let value = |name: &str| {
        let name = format!("{}: ", name.to_ascii_lowercase());
        head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix(&name).map(str::to_owned)).unwrap()
    };
    assert_eq!(value("Content-Type"), "application/json");
    assert_eq!(value(ID_HEADER), "00112233445566778899aabbccddeeff");
    assert_eq!(value(TIMESTAMP_HEADER), "1700000000");
    assert_eq!(value(SIGNATURE_HEADER), secret().sign(1_700_000_000, &body));
    assert_eq!(body, notification().body.as_bytes());
}

#[test]
fn an_answer_says_whether_to_come_again() {
    for (answer, is_refused) in [
        ("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", true),
        ("HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", true),
        ("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", false),
        ("what is this\r\n\r\n", false),
        ("", false),
    ] {
        let (url, thread) = receiver(Some(answer));
        let error = Webhook::new(&url, secret(), 5000).send(&notification(), NOW_MS).unwrap_err();
        thread.join().unwrap();
        assert_eq!(matches!(error, SendError::Refused(_)), is_refused, "{answer}: {error}");
        assert!(error.to_string().starts_with(&url), "{error}");
    }
}

#[test]
fn a_receiver_that_is_silent_or_away_is_asked_again() {
    let (url, thread) = receiver(None);
    let error = Webhook::new(url, secret(), 200).send(&notification(), NOW_MS).unwrap_err();
    assert!(matches!(error, SendError::Retry(_)), "{error}");
    thread.join().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = Webhook::new(format!("http://{free}/"), secret(), 1000).send(&notification(), NOW_MS).unwrap_err();
    assert!(matches!(error, SendError::Retry(_)), "{error}");
    let error = Webhook::new("http://", secret(), 1000).send(&notification(), NOW_MS).unwrap_err();
    assert!(matches!(error, SendError::Refused(_)), "{error}");
}
