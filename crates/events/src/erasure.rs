//! How a forgotten user is named without being remembered: by an HMAC-SHA-256 under a secret key that never
//! leaves the deployment. The erasure table maps that name to a floor; whoever replays old events computes the
//! name again and drops what lies at or below the floor.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::ids::HistoryKey;

/// Length of the secret key and of a name, in bytes.
pub const KEY_BYTES: usize = 32;

/// Secret key of the erasure table.
#[derive(Clone, PartialEq, Eq)]
pub struct ErasureKey([u8; KEY_BYTES]);

impl std::fmt::Debug for ErasureKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ErasureKey(secret)")
    }
}

/// The name of a forgotten user or session: 64 hexadecimal digits in text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErasedName([u8; KEY_BYTES]);

impl ErasureKey {
    /// A key from 32 secret random bytes.
    pub const fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The secret bytes, to be stored where only the deployment reads them.
    pub const fn secret_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The name of this history's owner.
    pub fn name(&self, key: &HistoryKey) -> ErasedName {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(&key.to_bytes());
        ErasedName(mac.finalize().into_bytes().into())
    }
}

impl ErasedName {
    /// Reads the text form; `None` if it is not 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        // `from_str_radix` takes a sign.
        if text.len() != 2 * KEY_BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; KEY_BYTES];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// A name from its raw bytes.
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Display for ErasedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_round_trip_and_depend_on_the_key() {
        let key = ErasureKey::new([7; 32]);
        let name = key.name(&HistoryKey::User("alice".into()));
        assert_eq!(ErasedName::parse(&name.to_string()).unwrap(), name);
        assert_ne!(name, ErasureKey::new([8; 32]).name(&HistoryKey::User("alice".into())));
        assert_ne!(name, key.name(&HistoryKey::Session("alice".into())));
        assert!(ErasedName::parse("xyz").is_none());
        assert!(ErasedName::parse(&"é".repeat(32)).is_none());
    }

    /// Found by running its fuzz target: `+2` was read as the byte 2, so one name had several texts.
    #[test]
    fn a_sign_is_no_digit_of_a_name() {
        assert!(ErasedName::parse(&"+2".repeat(32)).is_none());
        assert!(ErasedName::parse(&"02".repeat(32)).is_some());
    }
}
