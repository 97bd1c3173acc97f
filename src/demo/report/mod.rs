//! What the demo prints: plain text of at most 100 columns, each part as soon as it is known.

mod attacks;
mod latency;
mod plot;
pub(super) mod words;

use std::fmt::Write;
use std::net::SocketAddr;

use super::photos::Photo;

pub(super) use attacks::{before, success, table};
pub(super) use latency::latency;

/// What was trained, by `model/README.md`.
pub(super) const PARAMETERS: &str = "65,786";

/// What is about to be run, and on which photographs.
pub(super) fn opening(bare: SocketAddr, refrain: SocketAddr, photos: &[Photo], seed: u64) -> String {
    let mut text = format!(
        "\
Refrain: two attacks on an image classifier, without and with Refrain in front of it

  the model  lenet, a small network trained on CIFAR-10 ({PARAMETERS} parameters, right on 78.6 % of
             its test images), without any defence of its own; run in this process
  bare       {:<15}  a model server: ModelInfer over gRPC, as Triton and KServe v2 speak it
  Refrain    {:<15}  the sidecar before it: hardened profile, enforcing, all by default
  attackers  real gRPC over TCP, a connection and a session for each photo and attack; each asks
             about the photo itself first, sees all ten scores, exact, and knows nothing else
  seed       {seed}: the same seed gives the same queries and labels; times differ

The photos, all of them, named before anything is run; credits in full: src/demo/photos/README.md

",
        bare.to_string(),
        refrain.to_string(),
    );
    for Photo { name, shows, author, licence, .. } in photos {
        let _ = writeln!(text, "  {name:<15}  {shows:<26}  {author:<34}  {licence}");
    }
    text
}

/// What to do next.
pub(super) fn next() -> &'static str {
    "
Next: your own Triton (here on 127.0.0.1:8001; any KServe v2 server will do)

  1  Look first. Everything is forwarded, and the log says what would have been short-circuited:

       refrain proxy --mode observe --upstream http://127.0.0.1:8001 --listen 127.0.0.1:9001

     and let your clients ask port 9001 instead of 8001. Nothing else changes for them.

  2  Write down what fits you, refrain.toml, and have it checked:

       upstream = \"http://127.0.0.1:8001\"
       listen = \"127.0.0.1:9001\"
       [models.\"your-model\"]
       range = \"0..1\"            # float inputs: what their values mean; 0..255, -1..1 or imagenet

       refrain check --config refrain.toml

  3  Then enforce:

       refrain proxy --config refrain.toml

     Callers are told apart by address. Behind an ingress or a mesh say who names them:
       --caller-metadata x-user-id --trusted-peer 10.0.0.0/8

  Two pictures of your own, and what would be ruled:  refrain compare first.png second.png
"
}

/// A paragraph, indented by two and broken before column 97.
fn wrapped(paragraph: &str) -> String {
    let mut text = "\n ".to_owned();
    let mut column = 1;
    for word in paragraph.split_whitespace() {
        let length = word.chars().count();
        if column + 1 + length > 96 {
            text.push_str("\n ");
            column = 1;
        }
        text.push(' ');
        text.push_str(word);
        column += 1 + length;
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    /// What a terminal of 100 columns shows without breaking it.
    pub(super) fn fits(text: &str) {
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{} columns: {line}", line.chars().count());
        }
    }

    #[test]
    fn the_first_and_the_last_words_fit() {
        let photos = crate::demo::photos::all().unwrap();
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 65_535));
        fits(&super::opening(any, any, &photos, u64::MAX));
        fits(super::next());
        assert!(include_str!("../model/README.md").contains(super::PARAMETERS));
    }
}
