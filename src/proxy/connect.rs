//! How the model server is reached: by TCP, under TLS or by UNIX socket.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Uri};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::listen::BoxedStream;
use super::tls::{self, TlsError};
use crate::config::{UpstreamAddress, UpstreamTls};

/// How to reach the upstream.
pub(super) struct Connector {
    route: Way,
    scheme: Scheme,
    authority: Authority,
}

enum Way {
    Tcp(String),
    Unix(PathBuf),
    Tls(String, Box<(TlsConnector, ServerName<'static>)>),
}

impl Connector {
    /// A connector to `address`; `tls` applies to `https://` alone.
    pub(super) fn new(address: &UpstreamAddress, tls: &UpstreamTls) -> Result<Self, TlsError> {
        let local = || Authority::from_static("localhost");
        Ok(match address {
            UpstreamAddress::Http(authority) => Self {
                route: Way::Tcp(with_port(authority, 80)),
                scheme: Scheme::HTTP,
                authority: authority.clone(),
            },
            UpstreamAddress::Unix(path) => {
                Self { route: Way::Unix(path.clone()), scheme: Scheme::HTTP, authority: local() }
            }
            UpstreamAddress::Https(authority, name) => {
                let connector = TlsConnector::from(Arc::new(tls::client(tls)?));
                let name = tls.server_name.clone().unwrap_or_else(|| name.clone());
                Self {
                    route: Way::Tls(with_port(authority, 443), Box::new((connector, name))),
                    scheme: Scheme::HTTPS,
                    authority: authority.clone(),
                }
            }
        })
    }

    /// A connection, under TLS where the address says so.
    pub(super) async fn connect(&self) -> io::Result<BoxedStream> {
        Ok(match &self.route {
            Way::Tcp(address) => Box::pin(dial(address).await?),
            Way::Unix(path) => Box::pin(UnixStream::connect(path).await?),
            Way::Tls(address, tls) => {
                let stream = dial(address).await?;
                Box::pin(tls.0.connect(tls.1.clone(), stream).await?)
            }
        })
    }

    /// The target of a call: the caller's authority where it gave one, so that the upstream sees what it would have seen.
    fn target(&self, authority: Option<Authority>, path: PathAndQuery) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(authority.unwrap_or_else(|| self.authority.clone()));
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).expect("scheme, authority and path are all there")
    }

    /// `request` with the upstream's URI in place of its own.
    pub(super) fn aim<B>(&self, request: Request<B>) -> Request<B> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = self.target(parts.uri.authority().cloned(), path);
        parts.version = http::Version::HTTP_2;
        Request::from_parts(parts, body)
    }

    /// Where it leads: `host:port`, or a socket's path.
    pub(super) fn address(&self) -> &str {
        match &self.route {
            Way::Tcp(address) | Way::Tls(address, _) => address,
            Way::Unix(path) => path.to_str().unwrap_or_default(),
        }
    }
}

fn with_port(authority: &Authority, port: u16) -> String {
    if authority.port().is_some() { authority.to_string() } else { format!("{authority}:{port}") }
}

async fn dial(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
