//! What `unary.rs` promises, against a server whose every frame is the test's to say.

use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use super::super::lane::Lane;
use super::*;
use crate::config::{UpstreamAddress, UpstreamTls};

const DATA: u8 = 0;
const HEAD: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOODBYE: u8 = 7;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:status: 200` as HPACK writes it.
const OK: &[u8] = &[0x88];
/// `grpc-status: 0` as HPACK writes it.
const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";

/// The other end of a connection. It says nothing by itself.
struct Server(BoxedStream);

/// A frame that came.
struct Said {
    stream: u32,
    payload: Vec<u8>,
}

impl Server {
    /// A connection for calls, what ends with it, and its other end.
    async fn connected() -> (Unary, impl Future<Output = ()> + Send, Self) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (line, ended) = Unary::over(Box::pin(near)).await.unwrap();
        (line, ended, Self::greeted(Box::pin(far)).await)
    }

    /// The other end of the next connection that comes in.
    async fn accepted(listener: &TcpListener) -> Self {
        Self::greeted(Box::pin(listener.accept().await.unwrap().0)).await
    }

    async fn greeted(stream: BoxedStream) -> Self {
        let mut server = Self(stream);
        server.0.read_exact(&mut [0; 24]).await.unwrap();
        server.say(SETTINGS, 0, 0, &[]).await;
        server
    }

    async fn say(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.0.write_all(&[&head, payload].concat()).await.unwrap();
    }

    /// The next frame of this kind.
    async fn hear(&mut self, kind: u8) -> Said {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await.unwrap();
            if head[3] == kind {
                return Said { stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload };
            }
        }
    }

    async fn answer(&mut self, stream: u32) {
        self.say(HEAD, END_HEADERS, stream, OK).await;
        self.say(DATA, 0, stream, b"answer").await;
        self.say(HEAD, END_HEADERS | END_STREAM, stream, TRAILERS).await;
    }
}

fn question(length: usize) -> Request<Option<Bytes>> {
    Request::post("http://models.example/a/b").body(Some(vec![7; length].into())).unwrap()
}

async fn read(reply: Response<ReplyBody>) -> Result<(Bytes, bool), h2::Error> {
    let body = reply.into_body().collect().await?;
    let has_trailers = body.trailers().is_some();
    Ok((body.to_bytes(), has_trailers))
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up_while_a_call_waits() {
    let (line, ended, _server) = Server::connected().await;
    let began = Instant::now();
    let sent = timeout(Duration::from_mins(10), line.send(question(10))).await;
    let Err(failed) = sent.expect("it is given up") else { panic!("there is no reply") };
    assert_eq!(began.elapsed().as_secs(), (KEEP_ALIVE.0 + KEEP_ALIVE.1).as_secs());
    assert!(failed.again.is_none(), "it may have been processed");
    ended.await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_nothing_pings_nothing() {
    let (_line, _ended, mut server) = Server::connected().await;
    assert!(timeout(Duration::from_mins(10), server.hear(PING)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_sent_where_a_call_waits_and_nothing_came_for_a_while() {
    let (line, _ended, mut server) = Server::connected().await;
    let began = Instant::now();
    let call = tokio::spawn(line.clone().send(question(10)));
    let stream = server.hear(HEAD).await.stream;
    sleep(Duration::from_secs(20)).await;
    // A sign of life: the first silence begins here.
    server.say(HEAD, END_HEADERS, stream, OK).await;
    for at in [60, 90, 120] {
        let ping = server.hear(PING).await;
        assert_eq!(began.elapsed().as_secs(), at);
        server.say(PING, ACK, 0, &ping.payload).await;
    }
    drop(call.await.unwrap());
    assert!(timeout(Duration::from_mins(10), server.hear(PING)).await.is_err(), "no call waits any more");
}

/// A server that answers before it has read the whole request lets the rest of it be: it resets the call, for no error.
#[tokio::test(start_paused = true)]
async fn a_reply_that_has_ended_or_is_cut_off_for_no_error_is_whole() {
    for (reason, has_ended, is_whole) in [
        (Reason::NO_ERROR, true, true),
        (Reason::NO_ERROR, false, true),
        (Reason::CANCEL, true, true),
        (Reason::CANCEL, false, false),
    ] {
        let (line, _ended, mut server) = Server::connected().await;
        // More than the server has room for.
        let call = tokio::spawn(line.clone().send(question(100_000)));
        let stream = server.hear(HEAD).await.stream;
        if has_ended {
            server.answer(stream).await;
        } else {
            server.say(HEAD, END_HEADERS, stream, OK).await;
            server.say(DATA, 0, stream, b"answer").await;
        }
        server.say(RESET, 0, stream, &u32::from(reason).to_be_bytes()).await;
        let Ok(reply) = call.await.unwrap() else { panic!("{reason:?}: the head came") };
        match read(reply).await {
            Ok(read) => assert_eq!((is_whole, read), (true, (Bytes::from_static(b"answer"), has_ended))),
            Err(error) => assert_eq!((is_whole, error.reason()), (false, Some(reason))),
        }
    }
}

/// Of three calls one is answered after the goodbye, one was left out by it, and one comes when it has been said.
#[tokio::test]
async fn a_goodbye_opens_the_next_connection_and_ends_no_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string().parse().unwrap();
    let connector = Connector::new(&UpstreamAddress::Http(authority), &UpstreamTls::default()).unwrap();
    let lane = Arc::new(Lane::<Unary>::open(&Handle::current(), Arc::new(connector)));
    let ask = || {
        let lane = Arc::clone(&lane);
        tokio::spawn(async move { read(lane.send(question(10)).await.ok().unwrap()).await.unwrap() })
    };
    let answer = (Bytes::from_static(b"answer"), true);

    let mut first = Server::accepted(&listener).await;
    let taken = ask();
    let taken_stream = first.hear(HEAD).await.stream;
    let left_out = ask();
    first.hear(HEAD).await;
    let said = Instant::now();
    first.say(GOODBYE, 0, 0, &[&taken_stream.to_be_bytes()[..], &[0; 4]].concat()).await;

    let mut second = Server::accepted(&listener).await;
    let stream = second.hear(HEAD).await.stream;
    second.answer(stream).await;
    assert_eq!(left_out.await.unwrap(), answer);
    assert!(said.elapsed() < Duration::from_secs(1), "it waits for nothing but the connection");
    let next = ask();
    let stream = second.hear(HEAD).await.stream;
    second.answer(stream).await;
    assert_eq!(next.await.unwrap(), answer);
    first.answer(taken_stream).await;
    assert_eq!(taken.await.unwrap(), answer);
}
