#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

/// The longest trailer there can be.
fn trailer(lines: &[u8]) -> Trailer {
    let position = Position { number: "9".repeat(76).parse().unwrap(), sub: Some(u64::MAX) };
    Trailer {
        version: VERSION,
        shard: ShardId(999_999_999_999),
        after: position,
        first: position,
        last: position,
        counts: Counts {
            records: u64::MAX,
            erased: u64::MAX,
            accepted: u64::MAX,
            delivered: u64::MAX,
            superseded: u64::MAX,
            duplicate: u64::MAX,
            late: u64::MAX,
            rejected: u64::MAX,
        },
        snapshot_version: "0123456789abcdef".to_owned(),
        overlay_version: u64::MAX.to_string(),
        bytes: lines.len() as u64,
        digest: digest(lines),
    }
}

#[test]
fn round_trip_and_plain_readers_see_only_lines() {
    for compression in [Compression::Zstd, Compression::Gzip] {
        for lines in [&b""[..], b"{}\n", &b"{\"a\":1}\n".repeat(10_000)] {
            let bytes = encode(lines, &trailer(lines), compression).unwrap();
            let (read, read_lines) = decode("x", &bytes).unwrap();
            assert_eq!((read, &read_lines[..]), (trailer(lines), lines));
            assert_eq!(decode_trailer("x", &bytes[bytes.len() - TRAILER_BYTES..]).unwrap(), trailer(lines));
            let mut plain = Vec::new();
            match compression {
                Compression::Gzip => flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap(),
                Compression::Zstd => zstd::stream::copy_decode(&bytes[..], &mut plain).map(|()| 0).unwrap(),
            };
            assert_eq!(plain, lines);
        }
    }
}

/// Lists of every shape: with and without user, session, place in an aggregate, items.
fn lists() -> Vec<u8> {
    let with = |more: &str, items: &str| {
        format!(
            r#"{{"recommendationId":"0a0a94e5b2a7db402af2675c1e2e6afe",{more}"eventId":"é 1","eventType":"view","eventItemId":"i1","eventTimeMs":1700000000123,"arrivalTimeMs":-5,"trigger":"event","shardId":"shardId-000000000003","sequenceNumber":"49590338271490256608559692538361571095921575989136588898","snapshotVersion":"0123456789abcdef","overlayVersion":"0","items":[{items}]}}"#
        )
    };
    let user = with(r#""userId":"u1","#, r#"{"itemId":"i7","score":0.123456789},{"itemId":"i8","score":-1e-7}"#);
    let session = with(r#""sessionId":"s1","#, "").replace(r#""trigger":"event""#, r#""trigger":"user""#);
    let both = with(r#""userId":"u2","sessionId":"s2","#, r#"{"itemId":"","score":1.0}"#)
        .replace(r#"","snapshotVersion"#, r#"","subSequenceNumber":18446744073709551615,"snapshotVersion"#);
    // As this program writes them: what JSON leaves open (a number's digits) is settled.
    let lines = [user, session, both].map(|line| {
        serde_json::to_string(&serde_json::from_str::<anabranch_events::Recommendation<'_>>(&line).unwrap()).unwrap()
    });
    lines.map(|line| line + "\n").concat().into_bytes()
}

const PARQUET: [Form; 2] = [
    Form { format: Format::Parquet, compression: Compression::Zstd },
    Form { format: Format::Parquet, compression: Compression::Gzip },
];

#[test]
fn parquet_holds_the_same_lines_and_the_trailer() {
    let lines = lists();
    for (form, lines) in PARQUET.into_iter().flat_map(|form| [(form, &b""[..]), (form, &lines), (form, &lines[..0])]) {
        let bytes = encode(lines, &trailer(lines), form).unwrap();
        assert_eq!(decode("x.parquet", &bytes).unwrap(), (trailer(lines), lines.to_vec()));
        let tail = bytes.len().saturating_sub(tail_bytes("x.parquet") as usize);
        assert_eq!(decode_trailer("x.parquet", &bytes[tail..]).unwrap(), trailer(lines));
    }
    // Ids that compress badly.
    let many: Vec<u8> = (0..3_000_u128)
        .flat_map(|i| {
            String::from_utf8(lines.clone())
                .unwrap()
                .replace(
                    "0a0a94e5b2a7db402af2675c1e2e6afe",
                    &format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&i.to_le_bytes())),
                )
                .into_bytes()
        })
        .collect();
    let bytes = encode(&many, &trailer(&many), PARQUET[0]).unwrap();
    assert!(bytes.len() > parquet::TAIL_BYTES, "the test needs more than a tail");
    assert_eq!(decode("x.parquet", &bytes).unwrap(), (trailer(&many), many.clone()));
    assert_eq!(decode_trailer("x.parquet", &bytes[bytes.len() - parquet::TAIL_BYTES..]).unwrap(), trailer(&many));
    let mut small = trailer(&many);
    small.bytes = 10;
    let bomb = encode(&many, &small, PARQUET[0]).unwrap();
    assert!(matches!(decode("x.parquet", &bomb), Err(ObjectError::Corrupt { .. })));
}

#[test]
fn one_place_has_a_name_in_every_form_and_one_for_its_dead_letters() {
    let names = |name: &str| -> Vec<String> {
        places(&ObjectPath::new(name).unwrap()).iter().map(|path| path.as_str().to_owned()).collect()
    };
    assert_eq!(names("a/b.jsonl.zst"), ["a/b.jsonl.gz", "a/b.parquet", "a/b.jsonl.zst"]);
    assert_eq!(names("a/b.jsonl.gz"), ["a/b.jsonl.zst", "a/b.parquet", "a/b.jsonl.gz"]);
    assert_eq!(names("a/b.parquet"), ["a/b.jsonl.zst", "a/b.jsonl.gz", "a/b.parquet"]);
    for (name, letters) in [("b.jsonl.zst", "b.jsonl.zst"), ("b.jsonl.gz", "b.jsonl.gz"), ("b.parquet", "b.jsonl.zst")]
    {
        let (path, compression) = dead_letters_beside(&ObjectPath::new(format!("recommendations/n/{name}")).unwrap());
        assert_eq!(path.as_str(), format!("dead-letters/n/{letters}"));
        assert_eq!(Form::from(compression).ending(), letters.trim_start_matches('b'));
    }
}

#[test]
fn names_are_these_and_no_others() {
    let name = |shard, after: &str| {
        let after = after.parse().unwrap();
        object_name("recommendations/s-1", ShardId(shard), after, 1_700_000_000_000, Compression::Gzip)
    };
    let folder = "recommendations/s-1/day=2023-11-14/hour=22/";
    let kinesis = "49590338271490256608559692538361571095921575989136588898";
    for (shard, after, expected) in [
        (3, "42", "00003-00000000000000000042.jsonl.gz".to_owned()),
        (3, "42.7", "00003-00000000000000000042.7.jsonl.gz".to_owned()),
        (123_456, kinesis, format!("123456-{kinesis}.jsonl.gz")),
    ] {
        let name = name(shard, after);
        assert_eq!(name, folder.to_owned() + &expected);
        assert_eq!(parse_name(&name), Some((ShardId(shard), after.parse().unwrap())));
        let parquet = name.replace(".jsonl.gz", ".parquet");
        assert_eq!(parse_name(&parquet), Some((ShardId(shard), after.parse().unwrap())));
    }
    for bad in [
        "a/b.txt",
        "00003-42.jsonl.zst",
        "3-00000000000000000042.jsonl.zst",
        "000003-00000000000000000042.jsonl.zst",
        "+0003-00000000000000000042.jsonl.zst",
        "00003-00000000000000000042.07.jsonl.zst",
        "00003-00000000000000000042..jsonl.zst",
        "00003-000000000000000000042.jsonl.zst",
    ] {
        assert_eq!(parse_name(bad), None, "{bad}");
    }
}

/// A trailer as the first version of this program wrote it, its positions numbers.
#[test]
fn the_first_version_still_reads() {
    let json = r#"{"version":1,"shard":3,"after":41,"first":42,"last":99,"counts":{"records":58,"erased":0,"accepted":58,"delivered":58,"superseded":0,"duplicate":0,"late":0,"rejected":0},"snapshotVersion":"0123456789abcdef","overlayVersion":"0","bytes":0,"digest":"99aa06d3014798d86001c324468d497f"}"#;
    let mut payload = json.as_bytes().to_vec();
    payload.resize(ZSTD_PAYLOAD, b' ');
    let bytes = [&ZSTD_SKIPPABLE_MAGIC[..], &(ZSTD_PAYLOAD as u32).to_le_bytes(), &payload].concat();
    let read = decode_trailer("x", &bytes).unwrap();
    let at = |number: u64| Position::whole(number.into());
    assert_eq!((read.shard, read.after, read.first, read.last), (ShardId(3), at(41), at(42), at(99)));
}

#[test]
fn a_bomb_is_cut_off() {
    let lines = vec![b'\n'; 1 << 20];
    let mut small = trailer(&lines);
    small.bytes = 10;
    let bytes = encode(&lines, &small, Compression::Zstd).unwrap();
    assert!(matches!(decode("x", &bytes), Err(ObjectError::Corrupt { .. })));
}

proptest! {
    #[test]
    fn damage_of_parquet_is_noticed_and_never_panics(at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let lines = lists();
        let mut bytes = encode(&lines, &trailer(&lines), PARQUET[0]).unwrap();
        let at = at.index(bytes.len());
        prop_assert!(decode("x.parquet", &bytes[..at]).is_err());
        bytes[at] ^= flip;
        if let Ok((read, read_lines)) = decode("x.parquet", &bytes) {
            prop_assert_eq!(read.digest, digest(&read_lines));
        }
    }

    #[test]
    fn damage_is_noticed_and_never_panics(at in any::<prop::sample::Index>(), flip in 1..=255_u8, gzip in any::<bool>()) {
        let lines = b"{\"recommendationId\":\"1\"}\n".repeat(20);
        let mut bytes = encode(&lines, &trailer(&lines), if gzip { Compression::Gzip } else { Compression::Zstd }).unwrap();
        let at = at.index(bytes.len());
        let _ = decode("x", &bytes[..at]);
        bytes[at] ^= flip;
        if let Ok((read, read_lines)) = decode("x", &bytes) {
            // A flipped byte in an unchecked place (padding, an informational number) leaves the lines right.
            prop_assert_eq!(read.digest, digest(&read_lines));
        }
    }
}

/// Seen when the fuzz target of objects was written: the limit after the last byte overflowed.
#[test]
fn a_trailer_that_claims_every_byte_there_is_does_not_overflow() {
    for compression in [Compression::Zstd, Compression::Gzip] {
        let claims = Trailer { bytes: u64::MAX, ..trailer(b"{}\n") };
        let bytes = encode(b"{}\n", &claims, compression).unwrap();
        assert!(matches!(decode("x", &bytes), Err(ObjectError::Corrupt { .. })));
        assert_eq!(decompress("x", &bytes, u64::MAX).unwrap(), b"{}\n");
    }
}
