//! The operator's port.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support;
use crate::support::World;
use crate::{ask, get};

#[tokio::test]
async fn the_admin_port_says_whether_calls_should_come_and_why_not() {
    let world = World::new()
        .config("admin.listen = '127.0.0.1:0'\ntelemetry.digest_key = 'a secret of sixteen'")
        .start()
        .await;
    let admin = world.admin.clone().unwrap();
    assert!(get(&admin, "/livez").await.starts_with("HTTP/1.1 200"));
    support::within("ready", async {
        while !get(&admin, "/readyz").await.starts_with("HTTP/1.1 200") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    world.upstream.set_ready(false);
    support::within("not ready", async {
        loop {
            let said = get(&admin, "/readyz").await;
            if said.starts_with("HTTP/1.1 503") {
                assert!(said.contains("not ready: upstream: the model server is not ready"), "{said}");
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let metrics = get(&admin, "/metrics").await;
    assert!(metrics.contains("refrain_upstream_ready 0") && metrics.contains("version=0.0.4"), "{metrics}");
    let config = get(&admin, "/config").await;
    assert!(config.contains("digest_key = \"redacted\"") && !config.contains("sixteen"), "{config}");
    for (request, status) in [
        ("GET /nothing HTTP/1.1\r\nhost: localhost\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nhost: localhost\r\n", "405"),
        ("GET /config HTTP/1.1\r\nhost: evil.example\r\n", "403"),
        ("GET /sessions HTTP/1.1\r\nhost: evil.example\r\n", "403"),
        ("PUT /log HTTP/1.1\r\nhost: evil.example\r\ncontent-length: 5\r\n", "403"),
        ("PUT /log HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000\r\n", "413"),
        ("POST /drain HTTP/1.1\r\nhost: localhost\r\n", "405"),
        ("PUT /drain HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example\r\n", "403"),
        ("GET /sessions HTTP/1.1\r\nhost: localhost\r\nsec-fetch-site: cross-site\r\n", "403"),
    ] {
        let said = ask(&admin, &format!("{request}connection: close\r\n\r\n{}", "x".repeat(5000))).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {said}");
    }
}

#[tokio::test]
async fn one_address_that_takes_all_it_can_keeps_nobody_else_out_and_is_not_this_machine() {
    let world = World::new().config("admin.listen = '127.0.0.1:0'").start().await;
    let admin = world.admin.clone().unwrap();
    let from_another = || async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.6:0".parse().unwrap()).unwrap();
        socket.connect(admin.parse().unwrap()).await.unwrap()
    };
    let mut asked = from_another().await;
    let request = "GET /config HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    asked.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    asked.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 403"), "{said}");
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(from_another().await);
    }
    assert!(get(&admin, "/livez").await.starts_with("HTTP/1.1 200"));
}
