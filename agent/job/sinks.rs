//! `longrun-logs`: where the job's output goes beside the report's tail.

/// Where the output goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sinks {
    /// To Cloud Logging, line by line.
    pub cloud_logging: bool,
    /// To Cloud Storage, as one object an attempt.
    pub storage: Option<Bucket>,
}

/// Where objects go in Cloud Storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The bucket's name.
    pub bucket: String,
    /// What the objects' names begin with; no slash at its end, and empty for the bucket itself.
    pub prefix: String,
}

impl Sinks {
    /// Reads `cloud-logging`, `gs://bucket/prefix`, or both with blanks or a comma between them; `Err` says what
    /// was expected.
    pub(super) fn parse(value: &str) -> Result<Self, String> {
        let mut sinks = Self::default();
        let words = value.split([',', ' ', '\t', '\r', '\n']).filter(|word| !word.is_empty());
        for word in words {
            match word.strip_prefix("gs://") {
                Some(_) if sinks.storage.is_some() => return Err("one gs:// address at most".to_owned()),
                Some(path) => sinks.storage = Some(Bucket::parse(path)?),
                None if word == "cloud-logging" => sinks.cloud_logging = true,
                None => return Err(format!("cloud-logging, gs://bucket/prefix, or both, not `{word}`")),
            }
        }
        match sinks == Self::default() {
            true => Err("cloud-logging, gs://bucket/prefix, or both".to_owned()),
            false => Ok(sinks),
        }
    }
}

impl Bucket {
    /// Source: cloud.google.com/storage/docs/buckets#naming and cloud.google.com/storage/docs/objects#naming.
    fn parse(path: &str) -> Result<Self, String> {
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let is_end = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_inner = |byte: u8| is_end(byte) || matches!(byte, b'-' | b'_' | b'.');
        let bytes = bucket.as_bytes();
        let is_name = (3..=222).contains(&bytes.len())
            && bytes.iter().all(|byte| is_inner(*byte))
            && [bytes.first(), bytes.last()].iter().flatten().all(|byte| is_end(**byte));
        let prefix = prefix.trim_end_matches('/');
        // A name has 1024 bytes, and the prefix leaves room for what follows it.
        if !is_name || prefix.len() > 512 || prefix.chars().any(char::is_control) {
            return Err(format!("the name of a bucket, as in gs://bucket/prefix, not `{path}`"));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sink_or_both_are_read() {
        let bucket = |bucket: &str, prefix: &str| {
            Some(Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
        };
        for (value, cloud_logging, storage) in [
            ("cloud-logging", true, None),
            ("cloud-logging,cloud-logging", true, None),
            ("gs://my-logs", false, bucket("my-logs", "")),
            ("gs://my-logs/", false, bucket("my-logs", "")),
            ("gs://a_b.c9/some/where/", false, bucket("a_b.c9", "some/where")),
            ("cloud-logging gs://my-logs/a", true, bucket("my-logs", "a")),
            ("gs://my-logs/a,\n cloud-logging", true, bucket("my-logs", "a")),
        ] {
            assert_eq!(Sinks::parse(value), Ok(Sinks { cloud_logging, storage }), "{value}");
        }
    }

    #[test]
    fn what_is_no_sink_is_refused() {
        for (value, expected) in [
            ("", "cloud-logging, gs://bucket/prefix, or both"),
            (" , ", "cloud-logging, gs://bucket/prefix, or both"),
            ("cloudlogging", "cloud-logging, gs://bucket/prefix, or both, not `cloudlogging`"),
            ("gs://logs gs://more", "one gs:// address at most"),
            ("gs://", "the name of a bucket, as in gs://bucket/prefix, not ``"),
            ("gs://ab/c", "the name of a bucket, as in gs://bucket/prefix, not `ab/c`"),
            ("gs://-logs", "the name of a bucket, as in gs://bucket/prefix, not `-logs`"),
            ("gs://Logs/a", "the name of a bucket, as in gs://bucket/prefix, not `Logs/a`"),
        ] {
            assert_eq!(Sinks::parse(value), Err(expected.to_owned()), "{value}");
        }
    }
}
