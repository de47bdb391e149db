//! One form a chain: what its objects end with is written down before the first of them, and holds for every writer.
//!
//! An object's name has two parts: the place that it comes after, and an ending, by which readers such as Athena know
//! what is inside. "Created only if nothing has that name" therefore says nothing to a writer of another form: both would
//! deliver the same range. Looking under the other endings first would leave a moment between looking and creating. So
//! the ending is no choice of a writer but a property of the chain: a create-only object outside the lists' folder that
//! every writer reads, or creates, before it delivers anything.
//!
//! Guaranteed: of any number of writers at once, all that deliver have one ending. Not here: what the chain looked like
//! before there was such an object; walking it looks under every ending ([`super::places`]).

use anabranch_stores::ErrorKind;
use anabranch_stores::lake::{LakeError, ObjectPath, ObjectStore};
use serde::{Deserialize, Serialize};

use super::Form;

/// Folder of what chains say of themselves.
pub const CHAINS: &str = "chains";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    ending: String,
}

/// Why a writer may not write.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// The sink failed.
    #[error(transparent)]
    Sink(#[from] LakeError),
    /// The chain has another form.
    #[error(
        "the objects of this stream end with {held} ({path} says so) and the settings ask for {wanted}: writers of two \
         forms could deliver one range twice. Set [stream] format and compression as they were; or stop every worker and \
         function of the stream, remove {path}, and start"
    )]
    Other {
        /// Where it is written down.
        path: ObjectPath,
        /// The ending that the chain has.
        held: String,
        /// The ending that the settings ask for.
        wanted: &'static str,
    },
    /// What is written down does not read.
    #[error(
        "{path} does not say what the objects of this stream end with ({what}): upgrade the program if a newer one wrote \
         it; otherwise write {{\"version\":1,\"ending\":\"…\"}} with the ending that they have"
    )]
    Unreadable {
        /// Where it is written down.
        path: ObjectPath,
        /// What does not fit.
        what: String,
    },
}

impl FormError {
    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Sink(source) => source.kind(),
            Self::Other { .. } => ErrorKind::FixInput,
            Self::Unreadable { .. } => ErrorKind::Corrupt,
        }
    }
}

/// Where the form of a namespace's chains is written down.
pub fn form_path(namespace: &str) -> Result<ObjectPath, LakeError> {
    ObjectPath::new(format!("{CHAINS}/{namespace}/form.json"))
}

/// Makes sure that the chains of `namespace` have this form. Once it is said it stays true, so a process asks once.
pub fn claim_form(sink: &dyn ObjectStore, namespace: &str, form: impl Into<Form>) -> Result<(), FormError> {
    let wanted = form.into().ending();
    let path = form_path(namespace)?;
    let held = match sink.get(&path) {
        Ok(held) => held,
        Err(LakeError::NotFound { .. }) => {
            let written = Written { version: VERSION, ending: wanted.to_owned() };
            let bytes = serde_json::to_vec(&written).expect("a number and a text serialise into memory");
            // Ours or another's: what lies there now is what holds.
            let _ = sink.put_new(&path, &bytes)?;
            sink.get(&path)?
        }
        Err(error) => return Err(error.into()),
    };
    let unreadable = |what: String| FormError::Unreadable { path: path.clone(), what };
    let written: Written = serde_json::from_slice(&held).map_err(|error| unreadable(error.to_string()))?;
    if written.version != VERSION {
        return Err(unreadable(format!("version {}", written.version)));
    }
    if written.ending == wanted { Ok(()) } else { Err(FormError::Other { path, held: written.ending, wanted }) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use anabranch_stores::lake::{Fault, FaultPlan, FaultyStore, MemoryStore, Operation};

    use super::*;
    use crate::settings::{Compression, Format};

    const PARQUET: [Form; 2] = [
        Form { format: Format::Parquet, compression: Compression::Zstd },
        Form { format: Format::Parquet, compression: Compression::Gzip },
    ];

    #[test]
    fn of_writers_at_once_all_that_may_write_have_one_ending() {
        let forms =
            [Compression::Zstd.into(), Compression::Gzip.into(), PARQUET[0], Compression::Gzip.into(), PARQUET[1]];
        for _ in 0..50 {
            let sink = MemoryStore::new();
            let endings: Vec<&str> = std::thread::scope(|scope| {
                let sink = &sink;
                let claims: Vec<_> = forms
                    .iter()
                    .map(|form: &Form| scope.spawn(move || claim_form(sink, "s-1", *form).map(|()| form.ending())))
                    .collect();
                claims.into_iter().filter_map(|claim| claim.join().unwrap().ok()).collect()
            });
            assert!(!endings.is_empty() && endings.iter().all(|ending| *ending == endings[0]), "{endings:?}");
        }
    }

    #[test]
    fn another_form_is_refused_with_the_remedy_and_other_namespaces_are_their_own() {
        let sink = MemoryStore::new();
        claim_form(&sink, "s-1", Compression::Zstd).unwrap();
        claim_form(&sink, "s-1", Compression::Zstd).unwrap();
        claim_form(&sink, "run=a", PARQUET[1]).unwrap();
        // How a Parquet file is compressed is no part of its name.
        claim_form(&sink, "run=a", PARQUET[0]).unwrap();
        let error = claim_form(&sink, "s-1", Compression::Gzip).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FixInput);
        let said = error.to_string();
        for part in [".jsonl.zst", ".jsonl.gz", "chains/s-1/form.json", "[stream] format and compression", "stop every"]
        {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(&sink.get(&form_path("s-1").unwrap()).unwrap()[..], br#"{"version":1,"ending":".jsonl.zst"}"#);
        // As the remedy says.
        sink.delete(&form_path("s-1").unwrap()).unwrap();
        claim_form(&sink, "s-1", Compression::Gzip).unwrap();
    }

    #[test]
    fn what_does_not_read_is_not_written_over() {
        for text in ["", "{}", "[1]", r#"{"version":2,"ending":".jsonl.zst"}"#, r#"{"version":1,"ending":7}"#] {
            let sink = MemoryStore::new();
            sink.put(&form_path("s-1").unwrap(), text.as_bytes()).unwrap();
            let error = claim_form(&sink, "s-1", Compression::Zstd).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{text}: {error}");
            assert_eq!(&sink.get(&form_path("s-1").unwrap()).unwrap()[..], text.as_bytes());
        }
    }

    #[test]
    fn a_lost_answer_is_asked_again() {
        for fault in [Fault::Before, Fault::After] {
            let scripted = [(Operation::PutNew, fault)].into();
            let sink = FaultyStore::new(MemoryStore::new(), FaultPlan { scripted, ..FaultPlan::default() });
            assert_eq!(claim_form(&sink, "s-1", Compression::Gzip).unwrap_err().kind(), ErrorKind::Retry);
            claim_form(&sink, "s-1", Compression::Gzip).unwrap();
        }
    }
}
