//! One door from a location as people write it to a store.

use std::time::SystemTime;

use super::{LakeError, LocalStore, ObjectStore, RemoteStore, S3Options};

/// What opening a store needs besides its location.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// When this process started: local temporary files older than this are leftovers.
    pub process_started: SystemTime,
    /// How to reach S3, for `s3://` locations.
    pub s3: S3Options,
}

/// Opens `s3://bucket/prefix`, `file:///folder` or a plain folder path (created if need be).
pub fn open_store(location: &str, options: &StoreOptions) -> Result<Box<dyn ObjectStore>, LakeError> {
    let unusable =
        |reason: &str| LakeError::InvalidLocation { location: location.to_owned(), reason: reason.to_owned() };
    if let Some(rest) = location.strip_prefix("s3://") {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(unusable("the bucket is missing; write s3://bucket/prefix"));
        }
        return Ok(Box::new(RemoteStore::s3(bucket, prefix, &options.s3)?));
    }
    let folder = match location.strip_prefix("file://") {
        Some(folder) if folder.starts_with('/') => folder,
        Some(_) => return Err(unusable("write file:///absolute/folder, with three slashes")),
        None => location,
    };
    if folder.is_empty() {
        return Err(unusable("it is empty; write a folder or s3://bucket/prefix"));
    }
    if let Some((scheme, _)) = folder.split_once("://") {
        return Err(unusable(&format!("scheme {scheme}:// is not supported; use s3://, file:// or a plain path")));
    }
    Ok(Box::new(LocalStore::open(folder, options.process_started)?))
}
