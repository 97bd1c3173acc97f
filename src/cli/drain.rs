//! `refrain drain`: what a pod's preStop hook runs. The sidecar says that it is not ready, goes on serving, and has this long until
//! every client and load balancer knows.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The admin port of an injected sidecar.
const PORT: u16 = 15990;

/// How long the sidecar may take to hear it.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// Tells the sidecar to report that it is not ready, and returns when the drain time is over; it serves all the while.
#[derive(Args, Debug)]
pub(super) struct Drain {
    /// The sidecar's admin port, on this machine [default: 127.0.0.1 and the port of REFRAIN_ADMIN__LISTEN, else 15990]
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// The drain time in seconds: what it takes until nobody sends calls here any more.
    #[arg(long, value_name = "SECONDS", env = "REFRAIN_DRAIN_SECONDS", default_value_t = 10)]
    within: u64,
}

impl Drain {
    pub(super) fn run(&self) -> ExitCode {
        let admin =
            self.admin.unwrap_or_else(|| own_admin(std::env::var("REFRAIN_ADMIN__LISTEN").ok().as_deref()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let drained = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
            runtime.block_on(async {
                let told = tokio::time::timeout(HEARD_WITHIN, tell(admin)).await;
                told.unwrap_or_else(|_| Err(format!("no answer within {} s", HEARD_WITHIN.as_secs())))?;
                tokio::time::sleep(Duration::from_secs(self.within)).await;
                Ok(())
            })
        });
        match drained {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cannot drain: {admin}: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

/// The admin port of the sidecar whose environment this is.
fn own_admin(listen: Option<&str>) -> SocketAddr {
    let port =
        listen.and_then(|listen| listen.parse().ok()).map_or(PORT, |address: SocketAddr| address.port());
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

async fn tell(admin: SocketAddr) -> Result<(), String> {
    let stream = TcpStream::connect(admin).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::put("/drain").header("host", admin.to_string()).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let reply = sender.send_request(request).await.map_err(|error| error.to_string())?;
    if reply.status().is_success() { Ok(()) } else { Err(format!("status {}", reply.status())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_that_of_the_pods_own_sidecar() {
        assert_eq!(own_admin(None).to_string(), "127.0.0.1:15990");
        assert_eq!(own_admin(Some("0.0.0.0:7000")).to_string(), "127.0.0.1:7000");
        assert_eq!(own_admin(Some("[::]:7000")).to_string(), "127.0.0.1:7000");
        assert_eq!(own_admin(Some("unix:/run/admin")).to_string(), "127.0.0.1:15990");
    }
}
