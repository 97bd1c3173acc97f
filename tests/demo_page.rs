//! `refrain demo --report FILE`: the page is whole, needs nothing else, and shows the run that it is of.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::process::Command;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use refrain::demo::model::LABELS;
use refrain::demo::page::page;
use refrain::demo::photos::Photo;
use refrain::demo::{Fate, Plan, Story, quantile, run};
use roxmltree::{Document, Node, ParsingOptions};
use tokio::sync::OnceCell;

/// One run for all tests of this file.
async fn story() -> &'static Story {
    static STORY: OnceCell<Story> = OnceCell::const_new();
    let plan = Plan { seed: 3, photos: 2, budget: 150, pairs: 5 };
    STORY.get_or_init(async || run(plan, &mut std::io::sink(), &|_| {}).await.unwrap()).await
}

fn text_of(story: &Story) -> String {
    page(story, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap()
}

/// The page is written so that every element is closed and every attribute quoted: a parser that forgives nothing reads it.
fn parsed(text: &str) -> Document<'_> {
    Document::parse_with_options(text, ParsingOptions { allow_dtd: true, ..Default::default() }).unwrap()
}

fn all<'a>(document: &'a Document<'a>, name: &'a str) -> impl Iterator<Item = Node<'a, 'a>> {
    document.descendants().filter(move |node| node.has_tag_name(name))
}

/// The text of an element and of all in it, blanks made one.
fn words(node: Node<'_, '_>) -> String {
    let texts = node.descendants().filter(Node::is_text).filter_map(|node| node.text());
    texts.collect::<Vec<_>>().join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn classed<'a>(document: &'a Document<'a>, class: &'a str) -> impl Iterator<Item = Node<'a, 'a>> {
    let has = move |classes: &str| classes.split(' ').any(|one| one == class);
    document.descendants().filter(move |node| node.attribute("class").is_some_and(has))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_well_formed_and_needs_nothing_else() {
    let text = text_of(story().await);
    assert!(text.starts_with("<!DOCTYPE html>\n<html lang=\"en\">"));
    let document = parsed(&text);
    for never in ["script", "link", "iframe", "object", "embed", "form", "base", "use", "a"] {
        assert_eq!(all(&document, never).count(), 0, "<{never}>");
    }
    for node in document.descendants() {
        for attribute in node.attributes() {
            let (name, value) = (attribute.name(), attribute.value());
            assert!(!name.starts_with("on"), "{name} is a script");
            assert!(!["href", "srcset", "action", "data"].contains(&name), "{name}={value}");
            assert!(name != "src" || value.starts_with("data:image/png;base64,"), "{name}={value}");
        }
    }
    for never in ["http:", "https:", "url(", "@import", "javascript:"] {
        assert!(!text.contains(never), "{never}");
    }
    // The browser is told so too, should anything slip in.
    let policy = all(&document, "meta").find(|meta| meta.attribute("http-equiv").is_some()).unwrap();
    assert_eq!(
        (policy.attribute("http-equiv"), policy.attribute("content")),
        (
            Some("Content-Security-Policy"),
            Some("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_can_be_read_without_seeing_it() {
    let text = text_of(story().await);
    let document = parsed(&text);
    let mut names: Vec<&str> = document.descendants().filter_map(|node| node.attribute("id")).collect();
    for node in document.descendants() {
        if let Some(label) = node.attribute("aria-labelledby") {
            assert!(names.contains(&label), "{label} names nothing");
        }
    }
    let many = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), many, "a name is given twice");
    assert!(all(&document, "img").all(|image| image.attribute("alt").is_some_and(|alt| alt.len() > 10)));
    for plot in all(&document, "svg") {
        let says = plot.attribute("role") == Some("img") && plot.attribute("aria-label").is_some();
        let is_hidden = plot.ancestors().any(|node| node.attribute("aria-hidden") == Some("true"));
        assert!(says || is_hidden, "a plot without words: {}", &text[plot.range()]);
    }
    for table in all(&document, "table") {
        let heads: Vec<_> = table.descendants().filter(|node| node.has_tag_name("th")).collect();
        assert!(heads.iter().all(|head| head.attribute("scope").is_some()));
        assert!(heads.iter().any(|head| head.attribute("scope") == Some("col")));
        let rows = table.descendants().filter(|node| node.has_tag_name("tr"));
        let columns: Vec<usize> = rows.map(columns).collect();
        assert!(columns.iter().all(|many| *many == columns[0]), "{columns:?} columns: {}", words(table));
    }
}

fn columns(row: Node<'_, '_>) -> usize {
    let cells = row.children().filter(Node::is_element);
    cells.map(|cell| cell.attribute("colspan").map_or(1, |span| span.parse().unwrap())).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_the_pictures_of_the_run() {
    let story = story().await;
    let text = text_of(story);
    let document = parsed(&text);
    let shown: Vec<Vec<u8>> = all(&document, "img")
        .map(|image| {
            let (_, png) = image.attribute("src").unwrap().split_once(',').unwrap();
            image::load_from_memory(&STANDARD.decode(png).unwrap()).unwrap().into_rgb8().into_raw()
        })
        .collect();
    let mut expected = Vec::new();
    for duel in &story.duels {
        for (photo, trial) in story.photos.iter().zip(&duel.trials) {
            for picture in [&photo.picture, &trial.bare.best, &trial.refrain.best] {
                let pixels = (0..32).flat_map(|y| (0..32).flat_map(move |x| picture.at(x, y)));
                expected.push(pixels.collect::<Vec<u8>>());
            }
        }
    }
    assert_eq!(shown.len(), 12, "two photos, two attacks, three pictures");
    assert!(shown == expected, "the pictures are others, or in another order");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_has_the_figures_of_the_run() {
    let story = story().await;
    let text = text_of(story);
    let document = parsed(&text);
    let tables: Vec<_> = classed(&document, "numbers").collect();
    assert_eq!(tables.len(), story.duels.len());
    for (duel, table) in story.duels.iter().zip(tables) {
        let rows: Vec<String> =
            table.descendants().filter(|node| node.has_tag_name("tr")).map(words).collect();
        for (trial, row) in duel.trials.iter().zip(&rows[2..]) {
            let label = |label: usize| {
                if label == trial.bare.label {
                    LABELS[label].to_owned()
                } else {
                    format!("→ {}", LABELS[label])
                }
            };
            let expected = format!(
                "{} {} {:.3} {} {} {} {} {} {} {} {}",
                trial.photo,
                LABELS[trial.bare.label],
                trial.bare.clean[trial.bare.label],
                trial.bare.fooled.map_or("–".to_owned(), |fooled| fooled.after.to_string()),
                label(trial.bare.ended_with()),
                trial.refrain.asked,
                trial.forwarded,
                trial.short_circuited(),
                trial.refrain.refused,
                label(trial.refrain.ended_with()),
                label(trial.transferred),
            );
            assert_eq!(*row, expected);
        }
    }
    let strips: Vec<_> = classed(&document, "strip").collect();
    let trials: Vec<_> = story.duels.iter().flat_map(|duel| &duel.trials).collect();
    assert_eq!(strips.len(), trials.len());
    for (strip, trial) in strips.into_iter().zip(trials) {
        let marks = strip.descendants().find(|node| node.attribute("class") == Some("model line")).unwrap();
        let forwards = trial.refrain_course.iter().filter(|step| step.fate == Fate::Forward).count();
        assert_eq!(marks.attribute("d").unwrap().matches('M').count(), forwards);
    }
    for (name, sorted) in [("forwarded", &story.latency.forwarded), ("held", &story.latency.held)] {
        let [low, median, high] = [0.1, 0.5, 0.9].map(|share| quantile(sorted, share).as_secs_f64() * 1e3);
        let row = format!("{name} {low:.2} {median:.2} {high:.2}");
        assert!(all(&document, "tr").any(|found| words(found) == row), "{row}");
    }
    let page = words(document.root_element());
    let version = format!("refrain {}", env!("CARGO_PKG_VERSION"));
    for needed in ["seed 3", &version, "2001-09-09T01:46:40Z", "What this page does not show", "Kolmogorov"] {
        assert!(page.contains(needed), "{needed}");
    }
    for Photo { author, licence, .. } in &story.photos {
        assert!(page.contains(author) && page.contains(licence));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_into_the_page_is_escaped() {
    let mut story = story().await.clone();
    let wild = "<script>alert('&amp;')</script>\"onload=\"x";
    (story.photos[0].author, story.photos[0].shows) = (wild, wild);
    let text = text_of(&story);
    let document = parsed(&text);
    assert_eq!(all(&document, "script").count(), 0);
    let credits = classed(&document, "credits").next().unwrap();
    assert!(words(credits).contains(wild), "it reads as it was written");
    assert!(all(&document, "img").any(|image| image.attribute("alt").unwrap().starts_with(wild)));
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    for file in [folder.path().to_owned(), folder.path().join("missing/page.html")] {
        let ran = Command::new(env!("CARGO_BIN_EXE_refrain"))
            .args(["demo", "--report"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!((ran.status.code(), ran.stdout.as_slice()), (Some(64), b"".as_slice()), "{said}");
        assert!(said.starts_with(&format!("cannot write the report {}: ", file.display())), "{said}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
