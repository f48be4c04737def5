//! What a server's answer means, and how it is said to people. Pure: the same answer means the same everywhere.

use pc_switcher_contract::{ErrorKind, ModuleError};
use serde::Deserialize;

use super::place::Location;

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    /// The region of the bucket, where the server tells it.
    pub(super) region: Option<String>,
    /// How many seconds the server asks to wait.
    pub(super) retry_after: Option<u64>,
    /// Whether it comes without a body in any case.
    pub(super) is_bare: bool,
    /// Where an object lies, unless where they usually do.
    pub(super) storage_class: Option<String>,
    /// To which depth it moved by itself.
    pub(super) archive_status: Option<String>,
    /// Whether it is being fetched from where it lies, or was.
    pub(super) restore: Option<String>,
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    /// There is no such object.
    Missing,
    /// There is such an object, and it stays.
    Exists,
    /// The same request may go better later.
    Again,
    /// The server does not know what was asked for.
    Unsupported,
    /// Asking again helps nobody.
    Wrong(Wrong),
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wrong {
    NoBucket,
    /// The server does not take our word for who we are.
    Credentials,
    /// It does, but does not let us.
    Forbidden,
    Clock,
    /// The bucket is in another region, if the server says so in this one.
    Region(Option<String>),
    /// The object lies where it must be fetched from first.
    Frozen,
    Full,
    Odd,
}

/// The document of an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Problem {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) region: Option<String>,
}

/// One page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Page {
    pub(super) contents: Vec<Entry>,
    pub(super) is_truncated: bool,
    pub(super) next_continuation_token: Option<String>,
}

/// One object of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) size: u64,
}

impl Page {
    pub(super) fn read(answer: &Answer) -> Option<Self> {
        let text = std::str::from_utf8(&answer.body).ok()?;
        text.contains("<ListBucketResult").then(|| quick_xml::de::from_str(text).ok())?
    }
}

impl Answer {
    /// Reads what the server says is wrong; answers without a body say nothing.
    pub(super) fn problem(&self) -> Problem {
        let text = std::str::from_utf8(&self.body).unwrap_or_default();
        if text.contains("<Error") {
            quick_xml::de::from_str(text).unwrap_or_default()
        } else {
            Problem::default()
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        if (200..300).contains(&self.status) {
            return Verdict::Good;
        }
        let problem = self.problem();
        let region = || self.region.clone().or_else(|| problem.region.clone());
        match (self.status, problem.code.as_str()) {
            (_, "NoSuchBucket") => Verdict::Wrong(Wrong::NoBucket),
            (_, "InvalidObjectState") => Verdict::Wrong(Wrong::Frozen),
            (_, "RequestTimeTooSkewed") => Verdict::Wrong(Wrong::Clock),
            (_, "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded") | (507, _) => {
                Verdict::Wrong(Wrong::Full)
            }
            (
                _,
                "SignatureDoesNotMatch"
                | "InvalidAccessKeyId"
                | "ExpiredToken"
                | "InvalidToken"
                | "TokenRefreshRequired"
                | "AuthFailure"
                | "InvalidSecurity"
                | "NotSignedUp",
            )
            | (401, _) => Verdict::Wrong(Wrong::Credentials),
            (_, "AuthorizationHeaderMalformed") => match region() {
                Some(region) => Verdict::Wrong(Wrong::Region(Some(region))),
                None => Verdict::Wrong(Wrong::Credentials),
            },
            (301 | 302 | 307 | 308, _) | (_, "IllegalLocationConstraintException") => {
                Verdict::Wrong(Wrong::Region(region()))
            }
            // Later is not soon.
            (_, "GlacierExpeditedRetrievalNotAvailable") => Verdict::Wrong(Wrong::Odd),
            (404, "NoSuchKey") => Verdict::Missing,
            (404, _) if self.is_bare => Verdict::Missing,
            // What stands before the server says so, too, while that starts anew.
            (404, _) => Verdict::Again,
            (412, _) | (_, "PreconditionFailed") => Verdict::Exists,
            // Cut or spoilt on its way.
            (
                _,
                "RequestTimeout"
                | "BadDigest"
                | "XAmzContentSHA256Mismatch"
                | "InvalidDigest"
                | "IncompleteBody"
                | "SlowDown"
                | "ConditionalRequestConflict"
                | "OperationAborted",
            )
            | (408 | 429 | 500 | 502 | 503 | 504, _) => Verdict::Again,
            (501, _)
            | (400, "NotImplemented" | "InvalidArgument" | "InvalidRequest" | "UnsupportedArgument") => {
                Verdict::Unsupported
            }
            (403, _) => Verdict::Wrong(Wrong::Forbidden),
            _ => Verdict::Wrong(Wrong::Odd),
        }
    }
}

/// Says that something cannot be done with a bucket, why, and what to try.
pub(super) fn explain(what: &str, place: &Location, region: &str, answer: &Answer) -> ModuleError {
    let problem = answer.problem();
    let mut said = answer.status.to_string();
    for part in [&problem.code, &problem.message] {
        if !part.is_empty() {
            said.push_str(&format!(" {}", part.escape_debug()));
        }
    }
    let (bucket, endpoint) = (&place.bucket, &place.endpoint);
    let at = format!("in the bucket `{bucket}` at `{endpoint}`");
    let make = |kind, why: &str| ModuleError::new(kind, format!("cannot {what} {at}: {why}"));
    match answer.verdict() {
        Verdict::Wrong(Wrong::NoBucket) => {
            make(ErrorKind::Unreachable, "there is no such bucket").hint(
                "is its name right? buckets are made at the provider, where region, versions and object lock are chosen",
            )
        }
        Verdict::Wrong(Wrong::Credentials) => {
            make(ErrorKind::Invalid, &format!("the credentials are refused ({said})")).hint(
                "look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or at the file that `credentials` names",
            )
        }
        Verdict::Wrong(Wrong::Forbidden) => {
            make(ErrorKind::Invalid, &format!("the credentials do not allow it ({said})"))
                .hint("`docs/vault.md` says what they must allow for each command; do bucket and prefix fit them?")
        }
        Verdict::Wrong(Wrong::Clock) => {
            make(ErrorKind::Invalid, "the server's clock is another than this machine's")
                .hint("set the clock of this machine: signatures hold for a quarter of an hour")
        }
        Verdict::Wrong(Wrong::Region(told)) => {
            let hint = match told {
                Some(told) => format!("set `region = \"{}\"` for this vault", told.escape_debug()),
                None => "set `region` for this vault, and the endpoint of that region".into(),
            };
            make(ErrorKind::Invalid, &format!("it is not in the region `{region}` ({said})")).hint(hint)
        }
        Verdict::Wrong(Wrong::Frozen) => make(ErrorKind::Failed, "it lies in cold storage, from which the provider must fetch it first").hint(
            "`bt restore` has it fetch what is to be restored; `aws s3api restore-object` has it fetch a pack, which takes hours",
        ),
        Verdict::Wrong(Wrong::Full) => make(ErrorKind::DiskSpace, &format!("it is full ({said})"))
            .hint("a larger quota, or `bt prune`"),
        Verdict::Again => make(ErrorKind::Unreachable, &format!("the server goes on failing ({said})"))
            .hint("try again later: what was stored is not stored again"),
        Verdict::Missing => make(ErrorKind::Failed, "it is not there"),
        _ => make(ErrorKind::Failed, &format!("the server says {said}"))
            .hint("is the endpoint one that speaks S3? `path_style` may have to be other"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Answer {
        let text = format!(
            "<?xml version=\"1.0\"?><Error xmlns=\"x\"><Code>{code}</Code><Message>a &amp; b</Message><Odd/></Error>"
        );
        Answer {
            status,
            body: if code.is_empty() { Vec::new() } else { text.into_bytes() },
            ..Answer::default()
        }
    }

    #[test]
    fn each_answer_means_one_thing() {
        for (status, code, expected) in [
            (200, "", Verdict::Good),
            (204, "", Verdict::Good),
            (206, "", Verdict::Good),
            (404, "", Verdict::Again),
            (404, "NotFound", Verdict::Again),
            (404, "NoSuchKey", Verdict::Missing),
            (404, "NoSuchBucket", Verdict::Wrong(Wrong::NoBucket)),
            (412, "PreconditionFailed", Verdict::Exists),
            (409, "ConditionalRequestConflict", Verdict::Again),
            (503, "SlowDown", Verdict::Again),
            (503, "", Verdict::Again),
            (500, "InternalError", Verdict::Again),
            (400, "RequestTimeout", Verdict::Again),
            (400, "BadDigest", Verdict::Again),
            (501, "NotImplemented", Verdict::Unsupported),
            (400, "InvalidArgument", Verdict::Unsupported),
            (403, "SignatureDoesNotMatch", Verdict::Wrong(Wrong::Credentials)),
            (403, "InvalidAccessKeyId", Verdict::Wrong(Wrong::Credentials)),
            (400, "ExpiredToken", Verdict::Wrong(Wrong::Credentials)),
            (403, "AccessDenied", Verdict::Wrong(Wrong::Forbidden)),
            (403, "", Verdict::Wrong(Wrong::Forbidden)),
            (403, "RequestTimeTooSkewed", Verdict::Wrong(Wrong::Clock)),
            (403, "InvalidObjectState", Verdict::Wrong(Wrong::Frozen)),
            (503, "GlacierExpeditedRetrievalNotAvailable", Verdict::Wrong(Wrong::Odd)),
            (301, "PermanentRedirect", Verdict::Wrong(Wrong::Region(None))),
            (418, "Teapot", Verdict::Wrong(Wrong::Odd)),
        ] {
            assert_eq!(answer(status, code).verdict(), expected, "{status} {code}");
        }
        let bare = Answer { status: 404, is_bare: true, ..Answer::default() };
        assert_eq!(bare.verdict(), Verdict::Missing);
        let page = Answer { status: 404, body: "<html>no such site</html>".into(), ..Answer::default() };
        assert_eq!(page.verdict(), Verdict::Again, "of something before the server");
        let elsewhere = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>";
        let elsewhere = Answer { status: 400, body: elsewhere.into(), ..Answer::default() };
        assert_eq!(elsewhere.verdict(), Verdict::Wrong(Wrong::Region(Some("eu-west-1".into()))));
    }

    #[test]
    fn what_is_wrong_names_the_bucket_the_server_and_what_to_try() {
        let place = Location::parse("s3:https://s3.example.org/photos/a").unwrap();
        for (status, code, kind, why) in [
            (404, "NoSuchBucket", ErrorKind::Unreachable, "there is no such bucket"),
            (403, "SignatureDoesNotMatch", ErrorKind::Invalid, "the credentials are refused (403 Sign"),
            (403, "AccessDenied", ErrorKind::Invalid, "do not allow it"),
            (301, "PermanentRedirect", ErrorKind::Invalid, "not in the region `us-east-1`"),
            (403, "InvalidObjectState", ErrorKind::Failed, "cold storage"),
            (503, "SlowDown", ErrorKind::Unreachable, "goes on failing (503 SlowDown a & b)"),
            (403, "QuotaExceeded", ErrorKind::DiskSpace, "full"),
        ] {
            let error = explain("write `config`", &place, "us-east-1", &answer(status, code));
            let text = error.to_string();
            assert!(text.contains("in the bucket `photos` at `https://s3.example.org`: "), "{text}");
            assert!(text.starts_with("cannot write `config`") && text.contains(why), "{text}");
            assert_eq!((error.kind, error.hints.len()), (kind, 1), "{text}");
        }
    }

    #[test]
    fn listings_are_read_and_what_is_none_is_none() {
        let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                    <Name>b</Name><Prefix>p&amp;q/</Prefix><IsTruncated>true</IsTruncated>\
                    <Contents><Key>p&amp;q/a</Key><Size>3</Size><ETag>\"x\"</ETag></Contents>\
                    <Contents><Key>p&amp;q/b</Key><Size>0</Size></Contents>\
                    <NextContinuationToken>more</NextContinuationToken></ListBucketResult>";
        let page = Page::read(&Answer { status: 200, body: text.into(), ..Answer::default() }).unwrap();
        let keys: Vec<(&str, u64)> =
            page.contents.iter().map(|entry| (entry.key.as_str(), entry.size)).collect();
        assert_eq!(keys, [("p&q/a", 3), ("p&q/b", 0)]);
        assert!(page.is_truncated && page.next_continuation_token.as_deref() == Some("more"));
        let empty = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
        assert_eq!(Page::read(&Answer { body: empty.into(), ..Answer::default() }).unwrap(), Page::default());
        for odd in ["<html>hello</html>", "", "<ListBucketResult><Contents>"] {
            assert_eq!(Page::read(&Answer { body: odd.into(), ..Answer::default() }), None, "{odd}");
        }
    }
}
