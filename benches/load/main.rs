//! The two ends of the comparison: a model server that costs nearly nothing, and the load generator.
//!
//! ```text
//! load upstream SOCKET   serves the models of `pictures.rs` on a free loopback port, which it prints, and on the socket named
//! load request PAYLOAD   prints one request, prefix and all, for another generator to send
//! load pictures PAYLOAD  prints the pixels of all its pictures, one after another
//! load drive PLAN        carries out the plan (JSON; `drive.rs`) and prints one JSON line for each cell and way
//! ```
//!
//! `benches/run compare` starts both, with what stands between them; `benches/README.md` says what is measured.

#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to measure")]

use std::io::Write;
use std::path::Path;

use bytes::Bytes;

use pictures::Payload;

mod pictures;
mod upstream;
mod dial;
mod process;
mod asking;
mod drive;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The seed of the pictures that other generators send: none that ours does.
const OTHERS: u64 = 1_000_003;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // One thread each: with what they are compared through, that is all that two cores have.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    match words[..] {
        ["upstream", socket] => local.block_on(&runtime, upstream::serve(Path::new(socket))),
        ["drive", plan] => local.block_on(&runtime, drive::all(Path::new(plan))),
        ["request", payload] => print(&[Payload::named(payload).requests(OTHERS)[0].clone()]),
        ["pictures", payload] => print(&Payload::named(payload).pixels(OTHERS)),
        _ => {
            eprintln!(
                "expected `upstream SOCKET`, `request PAYLOAD`, `pictures PAYLOAD` or `drive PLAN`, found {words:?}"
            );
            std::process::exit(2);
        }
    }
}

fn print(parts: &[Bytes]) {
    let mut out = std::io::stdout().lock();
    for part in parts {
        out.write_all(part).unwrap();
    }
}
