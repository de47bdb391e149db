//! Settings of a vector bucket.

use std::fmt;

use crate::lake::S3Options;

/// How to reach a vector bucket and how to use it. Nothing is read from the environment here.
#[derive(Clone)]
pub struct S3VectorsOptions {
    /// Name of the vector bucket, which has to be there.
    pub bucket: String,
    /// Region and credentials, as for the lake; its endpoint is S3's and is not used.
    pub s3: S3Options,
    /// Endpoint of the service, such as `http://127.0.0.1:5000`; `None` for the region's own.
    pub endpoint: Option<String>,
    /// Names of the collections that get a second index for inner products when they are made. It doubles what is
    /// stored and put. Default none: user → item lists come from the snapshot, exactly.
    pub inner_product: Vec<String>,
    /// Most vectors that one query asks the service for; past it a search reads the whole collection. Default 100, what
    /// every region allows.
    pub top_k_max: usize,
    /// Most records that a search reads where the index cannot answer. One that would need more is refused. Default
    /// one million: at 64 dimensions some 700 pages of 1 MB.
    pub exact_scan_max: u64,
    /// Segments that a whole collection is read in at the same time, at most 16. Default 8.
    pub scan_segments: usize,
    /// `PutVectors` calls in flight. Default 2: an index takes 2,500 vectors a second, which is five calls.
    pub puts_in_flight: usize,
    /// Attempts of each call, the first included. Default 8, over about six seconds.
    pub attempts_max: u32,
    /// Decides the jitter of the waits between attempts; give each process another.
    pub jitter_seed: u64,
}

impl S3VectorsOptions {
    /// The defaults for a bucket.
    pub fn new(bucket: impl Into<String>, s3: S3Options) -> Self {
        Self {
            bucket: bucket.into(),
            s3,
            endpoint: None,
            inner_product: Vec::new(),
            top_k_max: 100,
            exact_scan_max: 1_000_000,
            scan_segments: 8,
            puts_in_flight: 2,
            attempts_max: 8,
            jitter_seed: 0,
        }
    }

    /// The defaults for a bucket, reached by the variables that AWS's own tools read; `variable` looks one up.
    pub fn from_environment(bucket: impl Into<String>, variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let read = |name: &str| variable(name).filter(|value| !value.is_empty());
        let endpoint = read("AWS_ENDPOINT_URL_S3VECTORS").or_else(|| read("AWS_ENDPOINT_URL"));
        Self { endpoint, ..Self::new(bucket, S3Options::from_environment(variable)) }
    }
}

impl fmt::Debug for S3VectorsOptions {
    /// Secrets stay out of logs: [`S3Options`] shows none.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("S3VectorsOptions")
            .field("bucket", &self.bucket)
            .field("s3", &self.s3)
            .field("endpoint", &self.endpoint)
            .field("inner_product", &self.inner_product)
            .field("top_k_max", &self.top_k_max)
            .field("exact_scan_max", &self.exact_scan_max)
            .field("scan_segments", &self.scan_segments)
            .field("puts_in_flight", &self.puts_in_flight)
            .field("attempts_max", &self.attempts_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_from_the_usual_variables_and_secrets_are_not_shown() {
        let variable = |name: &str| match name {
            "AWS_ENDPOINT_URL" => Some("http://all".to_owned()),
            "AWS_ENDPOINT_URL_S3VECTORS" => Some("http://vectors".to_owned()),
            "AWS_REGION" => Some("eu-west-1".to_owned()),
            "AWS_ACCESS_KEY_ID" => Some("id".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("very secret".to_owned()),
            "AWS_SESSION_TOKEN" => Some("a token".to_owned()),
            _ => None,
        };
        let options = S3VectorsOptions::from_environment("vectors", &variable);
        assert_eq!(options.endpoint.as_deref(), Some("http://vectors"));
        assert_eq!(options.s3.region.as_deref(), Some("eu-west-1"));
        let shown = format!("{options:?}");
        assert!(!shown.contains("very secret") && !shown.contains("a token"), "{shown}");
        let variable = |name: &str| variable(name).filter(|_| name != "AWS_ENDPOINT_URL_S3VECTORS");
        assert_eq!(S3VectorsOptions::from_environment("vectors", &variable).endpoint.as_deref(), Some("http://all"));
    }
}
