//! Where calls come in: a TCP port or a UNIX socket, plain or under TLS, and what each connection says of its peer.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use super::tls;
use crate::config::Address;

/// Any connection's bytes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection of whatever kind.
pub(super) type BoxedStream = Pin<Box<dyn Stream>>;

/// What a connection tells of who is at its other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The address; none on a UNIX socket.
    pub address: Option<IpAddr>,
    /// The subject alternative name of a verified client certificate.
    pub certified: Option<Arc<str>>,
}

/// An open listening socket.
pub struct Listener {
    socket: Socket,
    tls: Arc<ArcSwapOption<rustls::ServerConfig>>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A UNIX socket's file, removed when we stop listening.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A connection accepted but not yet greeted: the TLS handshake is the caller's to time out, off the accept loop.
pub struct Arrival {
    raw: Raw,
    tls: Option<Arc<rustls::ServerConfig>>,
}

enum Raw {
    Tcp(tokio::net::TcpStream, IpAddr),
    Unix(UnixStream),
}

/// A TLS handshake must be done within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);

impl Listener {
    /// Binds `address`. `SO_REUSEPORT` is never set: a second server on our port must fail to start, not share our calls.
    ///
    /// `tls`, when it holds a configuration, applies to connections accepted from then on.
    pub async fn bind(address: &Address, tls: Arc<ArcSwapOption<rustls::ServerConfig>>) -> io::Result<Self> {
        let socket = match address {
            Address::Tcp(address) => Socket::Tcp(TcpListener::bind(address).await?),
            Address::Unix(path) => Socket::Unix(bind_unix(path).await?, SocketFile(path.clone())),
        };
        Ok(Self { socket, tls })
    }

    /// The bound address, as it is written in settings: `127.0.0.1:8001` or `unix:/run/refrain.sock`.
    pub fn address(&self) -> String {
        match &self.socket {
            Socket::Tcp(socket) => {
                socket.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string())
            }
            Socket::Unix(_, file) => format!("unix:{}", file.0.display()),
        }
    }

    /// Whether only this machine can reach us, so that a loopback peer is a caller like any other.
    pub fn is_local(&self) -> bool {
        match &self.socket {
            Socket::Tcp(socket) => socket.local_addr().is_ok_and(|address| address.ip().is_loopback()),
            Socket::Unix(..) => true,
        }
    }

    /// The next connection. An error is passing (no file descriptors left, a peer that went away): accept again.
    pub async fn accept(&self) -> io::Result<Arrival> {
        let raw = match &self.socket {
            Socket::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                stream.set_nodelay(true)?;
                Raw::Tcp(stream, address.ip().to_canonical())
            }
            Socket::Unix(socket, _) => Raw::Unix(socket.accept().await?.0),
        };
        Ok(Arrival { raw, tls: self.tls.load_full() })
    }
}

impl Arrival {
    /// Completes the connection: the TLS handshake where there is one.
    pub async fn greet(self) -> io::Result<(BoxedStream, Peer)> {
        let (stream, address): (BoxedStream, _) = match self.raw {
            Raw::Tcp(stream, address) => (Box::pin(stream), Some(address)),
            Raw::Unix(stream) => (Box::pin(stream), None),
        };
        let Some(tls) = self.tls else {
            return Ok((stream, Peer { address, certified: None }));
        };
        let handshake = TlsAcceptor::from(tls).accept(stream);
        let stream = tokio::time::timeout(HANDSHAKE, handshake)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "TLS handshake took too long"))??;
        let certified = stream.get_ref().1.peer_certificates().and_then(tls::subject_of).map(Arc::from);
        Ok((Box::pin(stream), Peer { address, certified }))
    }
}

/// Binds a UNIX socket; a file that a dead process left behind is removed, a living server's is not.
async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        outcome => outcome,
    }
}
