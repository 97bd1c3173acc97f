//! What a model server may refuse of a call's headers: a replay is given only where headers like these are let through.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::call::is_a_timeout;

/// Headers of no more bytes than this are let through by every gRPC server: the usual limit is twice as much.
const PLAIN_SIZE: usize = 4 << 10;

/// A digest of what a model server may refuse of the headers, as a key of what a model accepts: their names, their size, and whether they
/// are well-formed. What they say is a caller's own, but for what opens a server's own gates.
pub(super) fn headers_key(headers: &HeaderMap, key: &[u8; 32]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    for name in names {
        hasher.update(name.as_bytes());
        let values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        for value in values {
            let form = match name {
                "content-type" | "te" | "grpc-encoding" => value,
                "grpc-timeout" if is_a_timeout(value) => b"well-formed",
                _ if name.ends_with("-bin") && is_base64(value) => b"well-formed",
                _ if name.starts_with("triton-") || name == "grpc-timeout" || name.ends_with("-bin") => value,
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

/// Whether every gRPC server takes these headers: well-formed, few, and nothing that opens a gate.
pub(super) fn are_plain(headers: &HeaderMap) -> bool {
    let is_plain = |(name, value): (&HeaderName, &HeaderValue)| {
        let value = value.as_bytes();
        match name.as_str() {
            "content-type" => value == b"application/grpc" || value.starts_with(b"application/grpc+"),
            "te" => value == b"trailers",
            "grpc-timeout" => is_a_timeout(value),
            "grpc-encoding" => matches!(value, b"identity" | b"gzip" | b"deflate"),
            "grpc-accept-encoding" => true,
            name if name.ends_with("-bin") => is_base64(value),
            name => !name.starts_with("grpc-") && !name.starts_with("triton"),
        }
    };
    size_of(headers) <= PLAIN_SIZE && headers.iter().all(is_plain)
}

/// Bytes of headers as HTTP/2 counts them.
fn size_of(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

fn is_base64(value: &[u8]) -> bool {
    let digits = value.iter().position(|byte| *byte == b'=').unwrap_or(value.len());
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    value[..digits].iter().all(is_digit)
        && value[digits..].iter().all(|byte| *byte == b'=')
        && digits % 4 != 1
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
            ("triton-grpc-protocol-key", "secret", false),
            ("x-long", &"a".repeat(5000), false),
        ] {
            let headers = headers(name, value);
            assert_eq!(are_plain(&headers), is_plain, "{name}: {value}");
            assert_eq!(headers_key(&headers, &[1; 32]), headers_key(&headers.clone(), &[1; 32]));
        }
        let key = |value| headers_key(&headers("triton-grpc-protocol-key", value), &[1; 32]);
        assert_ne!(key("secret"), key("another"), "what opens a gate counts by its value");
    }
}
