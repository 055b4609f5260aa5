//! HTTP on behalf of a plugin: only to hosts that were granted, to no private network, within a time and a size.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::IpAddr;
use std::time::Duration;

use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::address::is_public;
use super::bindings::querywright::plugin::http::{Header, HttpError, Method, Request, Response};
use super::look_up::{self, LookUpError};

/// Headers that would let a plugin speak for another host or break the framing of HTTP. They are left out.
const RESERVED_HEADERS: [&str; 6] =
    ["host", "content-length", "transfer-encoding", "connection", "proxy-authorization", "upgrade"];

/// Addresses of one host that are tried: as many as the client's list holds.
const MOST_ADDRESSES: usize = 16;

/// Bytes that every request counts beyond its own, for what the client adds and for the connection.
const BYTES_PER_REQUEST: usize = 512;

/// Bytes that sending a request counts, whether it succeeds or not.
pub(super) fn size(request: &Request) -> usize {
    BYTES_PER_REQUEST + request.url.len() + size_of_headers(&request.headers) + request.body.len()
}

/// Bytes of all names and values.
pub(super) fn size_of_headers(headers: &[Header]) -> usize {
    headers.iter().map(|header| header.name.len() + header.value.len()).sum()
}

/// Sends a request. `granted` are hosts as a manifest spells them, `time` bounds the whole exchange, `most` the bytes
/// of each body. `received` becomes the number of bytes that the response had, also where it ends in an error.
pub(super) fn send(
    granted: &BTreeSet<String>,
    request: &Request,
    time: Duration,
    most: usize,
    received: &mut usize,
) -> Result<Response, HttpError> {
    let (uri, spelled_out) = granted_uri(&request.url, granted)?;
    if time.is_zero() {
        return Err(HttpError::Timeout);
    }
    if request.body.len() > most {
        return Err(HttpError::TooLarge);
    }
    let mut builder = ureq::http::Request::builder().uri(uri).method(match request.method {
        Method::Get => ureq::http::Method::GET,
        Method::Post => ureq::http::Method::POST,
        Method::Put => ureq::http::Method::PUT,
        Method::Delete => ureq::http::Method::DELETE,
    });
    for Header { name, value } in &request.headers {
        if !RESERVED_HEADERS.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
            builder = builder.header(name, value);
        }
    }
    let sent = builder.body(request.body.as_slice()).map_err(|e| HttpError::InvalidUrl(e.to_string()))?;
    let answer = agent(time, spelled_out)?.run(sent).map_err(http_error)?;
    let headers = answer.headers().iter().filter_map(|(name, value)| {
        let value = value.to_str().ok()?.to_owned();
        Some(Header { name: name.as_str().to_owned(), value })
    });
    let (status, headers): (u16, Vec<Header>) = (answer.status().as_u16(), headers.collect());
    *received = size_of_headers(&headers);
    Ok(Response { status, headers, body: read_body(answer.into_body(), most, received)? })
}

/// The URL if its host was granted, and whether that host is an address or `localhost` instead of a name.
fn granted_uri(url: &str, granted: &BTreeSet<String>) -> Result<(ureq::http::Uri, bool), HttpError> {
    let invalid = |why: &str| HttpError::InvalidUrl(why.to_owned());
    let uri: ureq::http::Uri = url.parse().map_err(|e| invalid(&format!("{e}")))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(invalid("it begins with neither http:// nor https://"));
    }
    let authority = uri.authority().ok_or_else(|| invalid("it names no host"))?;
    if authority.as_str().contains('@') {
        return Err(invalid("it holds a user's name"));
    }
    if !granted.contains(&authority.as_str().to_ascii_lowercase()) {
        return Err(HttpError::Denied);
    }
    let spelled_out = authority.host().parse::<IpAddr>().is_ok() || authority.host().eq_ignore_ascii_case("localhost");
    Ok((uri, spelled_out))
}

/// A client without redirects and proxies. It reaches private addresses only if the embedder spelled the address out.
fn agent(time: Duration, allow_private: bool) -> Result<ureq::Agent, HttpError> {
    // Which variable of the host is wrong is not the plugin's business.
    let client = querywright_http::client();
    let config = client
        .map_err(|_| HttpError::Network("the host has no certificates that it can read".into()))?
        .timeout_global(Some(time))
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .build();
    Ok(ureq::Agent::with_parts(config, DefaultConnector::default(), PublicResolver { allow_private }))
}

fn read_body(body: ureq::Body, most: usize, received: &mut usize) -> Result<Vec<u8>, HttpError> {
    let mut bytes = Vec::new();
    let limit = most.saturating_add(1) as u64;
    let read = body.into_reader().take(limit).read_to_end(&mut bytes);
    *received += bytes.len();
    read.map_err(|e| match e.kind() {
        std::io::ErrorKind::TimedOut => HttpError::Timeout,
        _ => HttpError::Network(e.to_string()),
    })?;
    if bytes.len() > most { Err(HttpError::TooLarge) } else { Ok(bytes) }
}

fn http_error(error: ureq::Error) -> HttpError {
    match error {
        ureq::Error::Timeout(_) => HttpError::Timeout,
        ureq::Error::HostNotFound => HttpError::Network("no public address has this name".into()),
        other => HttpError::Network(other.to_string()),
    }
}

/// Resolves names to public addresses. The client connects to the addresses that this returns, so that a second answer
/// of a name server cannot lead to another one.
#[derive(Debug)]
struct PublicResolver {
    allow_private: bool,
}

impl Resolver for PublicResolver {
    fn resolve(
        &self,
        uri: &ureq::http::Uri,
        _: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let (scheme, authority) = uri.scheme().zip(uri.authority()).ok_or(ureq::Error::HostNotFound)?;
        let host = DefaultResolver::host_and_port(scheme, authority).ok_or(ureq::Error::HostNotFound)?;
        let found = look_up::addresses(&host, *timeout.after).map_err(|error| match error {
            LookUpError::Late => ureq::Error::Timeout(timeout.reason),
            LookUpError::Busy => ureq::Error::Io(std::io::Error::other("too many names are being looked up")),
            LookUpError::Unknown => ureq::Error::HostNotFound,
        })?;
        let mut public = self.empty();
        let allowed = found.into_iter().filter(|address| self.allow_private || is_public(address.ip()));
        for address in allowed.take(MOST_ADDRESSES) {
            public.push(address);
        }
        if public.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(public) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    fn request(url: &str) -> Request {
        Request { method: Method::Get, url: url.into(), headers: Vec::new(), body: Vec::new(), timeout_ms: 1000 }
    }

    fn to(url: &str, granted: &[&str], most: usize) -> Result<Response, HttpError> {
        let granted = granted.iter().map(|h| (*h).to_owned()).collect();
        send(&granted, &request(url), Duration::from_secs(2), most, &mut 0)
    }

    /// A server that gives this answer once; its host.
    fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = [0; 4096];
            let _ = stream.read(&mut seen);
            let _ = stream.write_all(answer.as_bytes());
        });
        host
    }

    #[test]
    fn only_granted_hosts_are_reached_and_only_as_they_were_spelled() {
        let host = server("HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello");
        let answer = to(&format!("http://{host}/x"), &[&host], 100).unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (404, b"hello".as_slice()));
        assert!(answer.headers.iter().any(|h| h.name == "x-a" && h.value == "b"));
        for url in [format!("http://{host}.org/"), "http://example.org/".into(), "http://localhost/".into()] {
            assert!(matches!(to(&url, &[&host], 100), Err(HttpError::Denied)), "{url}");
        }
        for url in ["file:///etc/passwd", "x", "http://", "http://a@127.0.0.1/", "gopher://a.org/"] {
            assert!(matches!(to(url, &["127.0.0.1", "a.org"], 100), Err(HttpError::InvalidUrl(_))), "{url}");
        }
    }

    #[test]
    fn a_redirect_is_an_answer_and_a_long_answer_is_cut_off_with_an_error() {
        let host = server("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(to(&format!("http://{host}/"), &[&host], 100).unwrap().status, 302);
        let host = server("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world");
        assert!(matches!(to(&format!("http://{host}/"), &[&host], 10), Err(HttpError::TooLarge)));
    }

    #[test]
    fn a_server_that_says_nothing_is_a_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let granted = [host.clone()].into();
        let answer = send(&granted, &request(&format!("http://{host}/")), Duration::from_millis(50), 100, &mut 0);
        assert!(matches!(answer, Err(HttpError::Timeout)), "{answer:?}");
    }

    #[test]
    fn what_was_received_is_counted_also_where_it_is_refused() {
        let host = server("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world");
        let (granted, mut received) = ([host.clone()].into(), 0);
        let answer = send(&granted, &request(&format!("http://{host}/")), Duration::from_secs(2), 4, &mut received);
        assert!(matches!(answer, Err(HttpError::TooLarge)));
        assert_eq!(received, "content-length".len() + "11".len() + 5);
    }
}
