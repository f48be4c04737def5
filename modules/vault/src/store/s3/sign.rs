//! Signatures: version 4 of Amazon's, in a header, over the body too. Held against the examples that are published for it.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::Credentials;

/// What is signed. Path and query are as they are sent; names of headers are in lower case.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: &'a [(&'static str, String)],
    /// The SHA-256 of the body, in hexadecimal.
    pub(super) body: &'a str,
    pub(super) region: &'a str,
    pub(super) at: Timestamp,
}

/// Returns a time as requests carry it.
pub(super) fn stamp(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// Returns the SHA-256 of a body, in hexadecimal.
pub(super) fn digest(body: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(body))
}

/// Percent-encodes what is not a plain letter; slashes stay in paths.
pub(super) fn encode(text: &str, is_path: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            b'/' if is_path => encoded.push('/'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Returns a query string, encoded and in order.
pub(super) fn query(pairs: &[(&str, String)]) -> String {
    let mut all: Vec<(String, String)> =
        pairs.iter().map(|(name, value)| (encode(name, false), encode(value, false))).collect();
    all.sort();
    let all: Vec<String> = all.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    all.join("&")
}

/// Returns the header `authorization`.
pub(super) fn authorization(what: &Signed<'_>, credentials: &Credentials) -> String {
    let mut headers: Vec<(&str, &str)> =
        what.headers.iter().map(|(name, value)| (*name, value.trim())).collect();
    headers.sort_unstable();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let Signed { method, path, query, body, region, at, .. } = what;
    let request = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{body}");
    let stamp = stamp(*at);
    let day = &stamp[..8];
    let scope = format!("{day}/{region}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", digest(request.as_bytes()));
    let mut key = format!("AWS4{}", credentials.secret).into_bytes();
    for part in [day, *region, "s3", "aws4_request"] {
        key = mac(&key, part);
    }
    let signature = HEXLOWER.encode(&mac(&key, &text));
    let id = &credentials.id;
    format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}")
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    // Keys of any length are taken.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn signature(method: &str, path: &str, query: &str, more: &[(&'static str, &str)], body: &str) -> String {
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned();
        let credentials = Credentials { id: "AKIAIOSFODNN7EXAMPLE".into(), secret, token: None };
        let at: Timestamp = "2013-05-24T00:00:00Z".parse().unwrap();
        let mut headers = vec![
            ("x-amz-date", stamp(at)),
            ("host", "examplebucket.s3.amazonaws.com".into()),
            ("x-amz-content-sha256", body.to_owned()),
        ];
        headers.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let signed = Signed { method, path, query, headers: &headers, body, region: "us-east-1", at };
        let header = authorization(&signed, &credentials);
        assert!(header.starts_with(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        ));
        header.rsplit_once('=').unwrap().1.to_owned()
    }

    #[test]
    fn signatures_are_those_of_the_published_examples() {
        let range = [("range", "bytes=0-9")];
        assert_eq!(
            signature("GET", "/test.txt", "", &range, NOTHING),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let put = [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")];
        assert_eq!(
            signature("PUT", &encode("/test$file.text", true), "", &put, &digest(b"Welcome to Amazon S3.")),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        let listed = query(&[("prefix", "J".into()), ("max-keys", "2".into())]);
        assert_eq!(
            signature("GET", "/", &listed, &[], NOTHING),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn odd_letters_are_encoded_as_servers_do_it() {
        assert_eq!(encode("a b/ü~$", true), "a%20b/%C3%BC~%24");
        assert_eq!(encode("a/b+c", false), "a%2Fb%2Bc");
        assert_eq!(query(&[("b", "/".into()), ("a", String::new())]), "a=&b=%2F");
        assert_eq!(digest(b""), NOTHING);
    }
}
