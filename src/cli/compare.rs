//! `refrain compare A B`: what judgment sees of two picture files, and what it would rule on the second after the first.

use std::fmt::Write;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::judgment::{Image, Judge, Judgment, Likeness, Profile, Reason, Rules, Ruling, Standing};
use crate::protocol::encoded::{self, Format};
use crate::protocol::tensor::{Reading, Unreadable};

/// The most pixels of a picture: 64 million, above those of most cameras.
const PIXELS: u32 = 64 << 20;

/// The longest file that is read, in bytes.
const FILE: u64 = 256 << 20;

/// A key is needed for digests, which are compared here and never shown.
const KEY: [u8; 32] = [0; 32];

/// Prints both fingerprints, every distance, and the ruling on the second picture after the first under each profile.
#[derive(Args, Debug)]
pub(super) struct Compare {
    /// The picture asked about first (JPEG, PNG, WebP, BMP or GIF, whose first frame counts).
    first: PathBuf,
    /// The picture asked about after it, by the same caller.
    second: PathBuf,
}

impl Compare {
    pub(super) fn run(&self) -> ExitCode {
        match (File::open(&self.first), File::open(&self.second)) {
            (Ok(first), Ok(second)) => {
                // A reader that has seen enough and closed the pipe is no failure.
                let _ = std::io::stdout().write_all(compared(&first, &second).as_bytes());
                ExitCode::SUCCESS
            }
            (first, second) => {
                for error in [first.err(), second.err()].into_iter().flatten() {
                    eprintln!("{error}");
                }
                ExitCode::FAILURE
            }
        }
    }
}

/// A picture out of a file.
struct File {
    name: String,
    format: Format,
    transparent: bool,
    image: Image<'static>,
}

/// Why a file is no picture that can be compared.
#[derive(Debug, thiserror::Error)]
enum FileError {
    /// It cannot be read at all.
    #[error("{0}: {1}")]
    Unreadable(String, std::io::Error),
    /// It is longer than [`FILE`].
    #[error("{0}: expected a file of at most {FILE} bytes, found {1}")]
    TooLong(String, u64),
    /// A folder has no pixels.
    #[error("{0}: expected a JPEG, PNG, WebP, BMP or GIF picture, found a directory")]
    Directory(String),
    /// It is no picture, or one that is torn or too large.
    #[error("{0}: {1}")]
    NoPicture(String, Unreadable),
}

impl File {
    fn open(path: &Path) -> Result<Self, FileError> {
        let name = path.display().to_string();
        let unreadable = |error| FileError::Unreadable(name.clone(), error);
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if metadata.is_dir() {
            return Err(FileError::Directory(name));
        }
        if metadata.len() > FILE {
            return Err(FileError::TooLong(name, metadata.len()));
        }
        let mut bytes = Vec::new();
        // A file may grow while it is read, and a device has no length.
        file.take(FILE).read_to_end(&mut bytes).map_err(unreadable)?;
        let reading = Reading { most_pixels: PIXELS, ..Reading::default() };
        match encoded::decode(&bytes, reading) {
            Ok(decoded) => {
                let encoded::Decoded { image, format, alpha } = decoded;
                Ok(Self { name, format, transparent: alpha, image })
            }
            Err(why) => Err(FileError::NoPicture(name, why)),
        }
    }

    fn tells(&self) -> String {
        let size = format!("{} x {}", self.image.width(), self.image.height());
        format!("{size:>13}  {:<4}  {}", self.format.name(), self.name)
    }

    fn is_reduced(&self) -> bool {
        self.image.width().max(self.image.height()) > 32
    }
}

fn compared(first: &File, second: &File) -> String {
    let mut text = format!("first   {}\nsecond  {}\n", first.tells(), second.tells());
    let mut note = |said: bool, note: &str| {
        if said {
            let _ = write!(text, "\n{note}\n");
        }
    };
    note(
        first.is_reduced() || second.is_reduced(),
        "Pictures above 32 x 32 are judged by their thumbnail of at most 32 x 32, the exact area average: finer detail\n\
         is seen only by the test for an exact repeat. Compare what your model is given: a client that crops or\n\
         resizes first sends something else than these files.",
    );
    note(
        first.transparent || second.transparent,
        "Transparency is dropped: the colours are taken as they stand.",
    );
    for profile in [Profile::Paper, Profile::Hardened] {
        text.push('\n');
        text.push_str(&under(profile, &first.image, &second.image));
    }
    text
}

/// Fingerprints, distances and the ruling of one profile.
fn under(profile: Profile, first: &Image<'_>, second: &Image<'_>) -> String {
    let (name, rules) = match profile {
        Profile::Paper => ("paper", Rules::paper()),
        Profile::Hardened => ("hardened (default)", Rules::hardened()),
    };
    let judge = Judge::new(rules, KEY);
    let (a, b) = (judge.likeness(first), judge.likeness(second));
    let mut text = format!("{name}\n");
    for (which, likeness) in [("first", &a), ("second", &b)] {
        let flat = if likeness.is_flat() { "  flat: counts for nothing by itself" } else { "" };
        let _ = writeln!(text, "  fingerprint  {which:<6}  {}{flat}", likeness.fingerprint());
    }
    text.push_str(&distances(&judge, &a, &b));
    let anchors = [(&a, Standing::SameView)];
    let judgment = judge.rule(&b, anchors.into_iter(), std::iter::empty(), false);
    let (ruling, why) = ruled(&judge, &judgment);
    let _ = writeln!(text, "  ruling       {ruling}: {why}");
    text
}

fn distances(judge: &Judge, a: &Likeness, b: &Likeness) -> String {
    let (rules, found) = (judge.rules(), judge.distances(a, b));
    let mut text = String::new();
    let mut line = |what: &str, found: String, of: &str, radii: String| {
        let row = format!("  {what:<19}  {found:>6} {of:<8}  {radii}");
        let _ = writeln!(text, "{}", row.trim_end());
    };
    let share = |limit: u32| u64::from(limit) * u64::from(found.of) / 1024;
    let of = format!("of {}", found.of);
    match rules.profile {
        Profile::Paper => {
            let within =
                |of: u32| format!("similar up to {}", (rules.threshold * f64::from(of) + 1e-6) as u32);
            line("bits that differ", found.bits.to_string(), "of 256", within(256));
            line("positions", found.positions.to_string(), &of, within(found.of));
            line("mean difference", format!("{:.2}", found.mean_difference), "levels", String::new());
        }
        Profile::Hardened => {
            let radii = |reuse, suspect| format!("reuse up to {reuse}, suspect up to {suspect}");
            line(
                "bits that differ",
                found.bits.to_string(),
                "of 256",
                radii(u64::from(rules.reuse_bits), u64::from(rules.suspect_bits)),
            );
            line(
                "positions",
                found.positions.to_string(),
                &of,
                radii(share(rules.reuse_positions), share(rules.suspect_positions)),
            );
            let contrast = rules.cell_contrast * a.cell_deviation().min(b.cell_deviation());
            let level = contrast.min(f32::from(rules.cell_level));
            line(
                "fine cells near",
                found.fine_cells_within.to_string(),
                "of 64",
                format!(
                    "reuse from {}, near being within {level:.1} levels (by their contrast)",
                    rules.reuse_cells
                ),
            );
            line(
                "coarse cells near",
                found.coarse_cells_within.to_string(),
                "of 16",
                format!(
                    "suspect from {}, near being within {} levels ({} without the cast), or by their contrast",
                    rules.suspect_cells, rules.suspect_level, rules.suspect_cast_level
                ),
            );
            line(
                "correlation",
                format!("{:.3}", found.correlation),
                "1 at most",
                format!("suspect from {}", rules.suspect_correlation),
            );
            line(
                "palettes",
                format!("{:.3}", found.palette),
                "apart",
                format!(
                    "suspect below {} (less below {} levels of chroma)",
                    rules.suspect_palette, rules.palette_chroma
                ),
            );
            line(
                "mean difference",
                format!("{:.2}", found.mean_difference),
                "levels",
                "of several reusable answers, the nearest by this".to_owned(),
            );
        }
    }
    text
}

/// The ruling in a word, and its reason in plain words.
fn ruled(judge: &Judge, judgment: &Judgment) -> (&'static str, String) {
    let word = match (judgment.ruling, judgment.evidence.suspect) {
        (Ruling::Replay(_), _) => "replay",
        (Ruling::Forward, true) => "suspect",
        (Ruling::Forward, false) => "forward",
        (Ruling::Refuse, _) => "refuse",
    };
    let rules = judge.rules();
    let near = match judgment.evidence.reason {
        Reason::New => "the pictures are in no radius of each other".to_owned(),
        Reason::Exact => "an exact repeat, pixel by pixel".to_owned(),
        Reason::Bits => "few bits of the fingerprints differ".to_owned(),
        Reason::Pixels => "few positions differ".to_owned(),
        Reason::Cells => "nearly all fine cells are near".to_owned(),
        Reason::Unguarded => format!(
            "near enough to reuse, but outside the guard: fewer than {:.0} % of positions\n               agree within {} \
             levels, or some fine cell is more than {} levels off",
            100.0 * rules.guard_share,
            rules.guard_level,
            rules.guard_cell
        ),
        Reason::Coarse => "most coarse cells are near".to_owned(),
        Reason::ColourCast => "most coarse cells are near once the colour cast is taken off".to_owned(),
        Reason::Correlation => "light and dark lie alike, however strong".to_owned(),
        Reason::Palette => "the same colours, wherever in the pictures they stand".to_owned(),
        Reason::OtherView | Reason::Ghost => judgment.evidence.reason.as_str().to_owned(),
    };
    let follows = match word {
        "replay" => "the model is not asked, the answer to the first serves",
        "suspect" => {
            "no answer is given, unless the first answers for it within the\n               guard; the model is asked \
             where store.suspicions allows so many a session"
        }
        "forward" => "the model is asked",
        _ => "no answer is given",
    };
    (word, format!("{near};\n               {follows}"))
}
