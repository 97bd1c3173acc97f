//! What a model server may refuse of a call's headers: a replay is given only where headers like these are let through.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::call::is_a_timeout;

/// Headers of no more bytes than this are let through by every gRPC server: the usual limit is twice as much, and from there on
/// Triton refuses some at random.
const PLAIN_SIZE: usize = 4 << 10;

/// Whether a model server lets these headers through for certain: any would, or this one did when `accepted` learnt their key.
pub(super) fn are_let_through(
    headers: &HeaderMap,
    key: &[u8; 32],
    accepted: impl FnOnce([u8; 16]) -> bool,
) -> bool {
    are_plain(headers) || size_of(headers) <= PLAIN_SIZE && accepted(headers_key(headers, key))
}

/// A digest of what a model server may refuse of the headers, as a key of what a model accepts: their names, their size, and whether they
/// are well-formed. What they say is a caller's own, but for what opens a server's own gates or what gRPC itself reads.
pub(super) fn headers_key(headers: &HeaderMap, key: &[u8; 32]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    for name in names {
        hasher.update(name.as_bytes());
        let values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        for value in values {
            let form: &[u8] = match name {
                "grpc-timeout" if is_a_timeout(value) => b"well-formed",
                "grpc-accept-encoding" => b"",
                _ if is_read_by_grpc(name) => value,
                _ if name.ends_with("-bin") && is_base64(value) => b"well-formed",
                _ if name.starts_with("triton") || name.ends_with("-bin") => value,
                _ => b"",
            };
            hasher.update(&(form.len() as u64).to_le_bytes());
            hasher.update(form);
        }
    }
    hasher.update(&(size_of(headers).next_power_of_two() as u64).to_le_bytes());
    let mut digest = [0xff; 16];
    digest[1..].copy_from_slice(&hasher.finalize().as_bytes()[..15]);
    digest
}

/// Whether every gRPC server takes these headers: well-formed, few, what gRPC asks for, and nothing that opens a gate.
pub(super) fn are_plain(headers: &HeaderMap) -> bool {
    let is_plain = |(name, value): (&HeaderName, &HeaderValue)| {
        let value = value.as_bytes();
        match name.as_str() {
            "content-type" => value == b"application/grpc" || value.starts_with(b"application/grpc+"),
            "te" => value == b"trailers",
            "grpc-timeout" => is_a_timeout(value),
            "grpc-encoding" => matches!(value, b"identity" | b"gzip" | b"deflate"),
            "grpc-accept-encoding" => true,
            name if is_read_by_grpc(name) || name.starts_with("triton") => false,
            name => is_a_name(name) && (!name.ends_with("-bin") || is_base64(value)),
        }
    };
    size_of(headers) <= PLAIN_SIZE && headers.contains_key("te") && headers.iter().all(is_plain)
}

/// Whether gRPC's own server parses the values of headers of this name, and refuses calls by what it finds.
fn is_read_by_grpc(name: &str) -> bool {
    matches!(name, "content-type" | "te" | "lb-cost-bin") || name.starts_with("grpc-")
}

/// Whether gRPC allows it as a name; HTTP/2 allows more.
fn is_a_name(name: &str) -> bool {
    name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'))
}

/// Bytes of headers as HTTP/2 counts them.
fn size_of(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// Whether it is base64, padded or not, with nothing left over in its last digit.
fn is_base64(value: &[u8]) -> bool {
    let digits = value.iter().position(|byte| *byte == b'=').unwrap_or(value.len());
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let ends_well = match (digits % 4, digits.checked_sub(1).map(|last| value[last])) {
        (0, _) => true,
        (2, Some(last)) => b"AQgw".contains(&last),
        (3, Some(last)) => b"AEIMQUYcgkosw048".contains(&last),
        _ => false,
    };
    value[..digits].iter().all(is_digit) && value[digits..].iter().all(|byte| *byte == b'=') && ends_well
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_some_server_refuses_are_not_plain() {
        let headers = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            headers.insert("te", HeaderValue::from_static("trailers"));
            headers.insert("x-user", HeaderValue::from_static("alice"));
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            headers
        };
        for (name, value, is_plain) in [
            ("grpc-timeout", "5S", true),
            ("grpc-timeout", "abc", false),
            ("content-type", "application/json", false),
            ("content-type", "application/grpc+proto", true),
            ("x-data-bin", "YWJj", true),
            ("x-data-bin", "!!!", false),
            ("x-data-bin", "YQ", true),
            ("x-data-bin", "YQ==", true),
            ("x-data-bin", "YR==", false),
            ("x-data-bin", "YWI", true),
            ("x-data-bin", "YWJ", false),
            ("x-data-bin", "Y", false),
            ("x!", "a", false),
            ("lb-cost-bin", "AAAA", false),
            ("grpc-status", "0", false),
            ("te", "deflate", false),
            ("triton-grpc-protocol-key", "secret", false),
            ("x-long", &"a".repeat(5000), false),
        ] {
            let headers = headers(name, value);
            assert_eq!(are_plain(&headers), is_plain, "{name}: {value}");
            assert_eq!(headers_key(&headers, &[1; 32]), headers_key(&headers.clone(), &[1; 32]));
        }
        let key = |name, value| headers_key(&headers(name, value), &[1; 32]);
        for name in ["triton-grpc-protocol-key", "grpc-previous-rpc-attempts", "lb-cost-bin"] {
            assert_ne!(
                key(name, "secret"),
                key(name, "another"),
                "what a server reads counts by its value: {name}"
            );
        }
        assert_eq!(key("x-token", "secret"), key("x-token", "others"), "what is the caller's own does not");
    }

    #[test]
    fn headers_that_were_let_through_are_again_unless_they_are_many() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        assert!(!are_let_through(&headers, &[1; 32], |_| false), "without te");
        assert!(are_let_through(&headers, &[1; 32], |_| true));
        headers.insert("te", HeaderValue::from_static("trailers"));
        assert!(are_let_through(&headers, &[1; 32], |_| false));
        headers.insert("x-token", HeaderValue::from_str(&"a".repeat(5000)).unwrap());
        assert!(!are_let_through(&headers, &[1; 32], |_| true), "a server may refuse them at random");
    }
}
