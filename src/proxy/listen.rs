//! Where calls come in: a TCP port or a UNIX socket, plain or under TLS, and what each connection says of its peer.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use super::tls;
use crate::config::Address;

/// Any connection's bytes.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection of whatever kind.
pub(super) type BoxedStream = Pin<Box<dyn Stream>>;

/// What a connection tells of who is at its other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// The address; none on a UNIX socket.
    pub(super) address: Option<IpAddr>,
    /// The subject alternative name of a verified client certificate.
    pub(super) certified: Option<Arc<str>>,
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

/// The sockets of no runtime: who accepts a connection need not be who serves it.
enum Raw {
    Tcp(std::net::TcpStream, IpAddr),
    Unix(std::os::unix::net::UnixStream),
}

/// A connection must have shaken hands and begun to speak HTTP/2 within this time.
const GREETING: Duration = Duration::from_secs(10);

/// How many bytes every HTTP/2 connection begins with.
const PREFACE: usize = 24;

/// A stream whose first bytes were read and are read again.
struct Rewound {
    preface: [u8; PREFACE],
    read: usize,
    stream: BoxedStream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.preface[self.read..];
        if rest.is_empty() {
            return self.stream.as_mut().poll_read(context, buffer);
        }
        let taken = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..taken]);
        self.read += taken;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }
}

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
                // A socket that refuses this is on its way out, and says so when it is read.
                let _ = stream.set_nodelay(true);
                Raw::Tcp(stream.into_std()?, address.ip().to_canonical())
            }
            Socket::Unix(socket, _) => Raw::Unix(socket.accept().await?.0.into_std()?),
        };
        Ok(Arrival { raw, tls: self.tls.load_full() })
    }
}

impl Arrival {
    /// Whose share of the connections this one counts against: its network's, or the UNIX socket's.
    pub(super) fn origin(&self) -> [u8; 16] {
        match &self.raw {
            Raw::Tcp(_, address) => origin_of(*address),
            Raw::Unix(_) => [0; 16],
        }
    }

    /// Completes the connection: the TLS handshake where there is one, and the first bytes of HTTP/2. A peer that says nothing
    /// must not keep its place.
    pub(super) async fn greet(self) -> io::Result<(BoxedStream, Peer)> {
        let greeted = async {
            let (mut stream, peer) = self.shake_hands().await?;
            let mut preface = [0; PREFACE];
            stream.read_exact(&mut preface).await?;
            let stream: BoxedStream = Box::pin(Rewound { preface, read: 0, stream });
            Ok((stream, peer))
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the peer does not speak");
        tokio::time::timeout(GREETING, greeted).await.map_err(late)?
    }

    /// The TLS handshake where there is one.
    pub(super) async fn shake_hands(self) -> io::Result<(BoxedStream, Peer)> {
        let (stream, address): (BoxedStream, _) = match self.raw {
            Raw::Tcp(stream, address) => (Box::pin(TcpStream::from_std(stream)?), Some(address)),
            Raw::Unix(stream) => (Box::pin(UnixStream::from_std(stream)?), None),
        };
        let Some(tls) = self.tls else {
            return Ok((stream, Peer { address, certified: None }));
        };
        let stream = TlsAcceptor::from(tls).accept(stream).await?;
        let certified = stream.get_ref().1.peer_certificates().and_then(tls::subject_of).map(Arc::from);
        Ok((Box::pin(stream), Peer { address, certified }))
    }
}

/// The network that an address counts for.
pub(super) fn origin_of(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => {
            let mut origin = [0; 16];
            origin[..8].copy_from_slice(&address.octets()[..8]);
            origin
        }
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
