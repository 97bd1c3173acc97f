//! The attacks: what they are, a row for each photograph, and who succeeded.

use std::fmt::Write;

use super::plot::track;
use super::words::in_words;
use super::wrapped;
use crate::demo::attack::{Attack, Outcome};
use crate::demo::duel::{Duel, Trial};
use crate::demo::model::LABELS;

/// What is about to be run.
pub(in crate::demo) fn before(attack: Attack, photos: usize) -> String {
    let tells = attack.tells().replace('\n', "\n  ");
    format!("\nThe {} attack on each of the {photos} photos\n\n  {tells}\n\n", attack.name())
}

/// A row for each photograph.
pub(in crate::demo) fn table(duel: &Duel) -> String {
    let mut rows = vec![
        // A heading of several columns starts where the first of them does.
        format!("{:<26}{:<19}{:<34}{:<11}its best", "", "bare model", "through Refrain", "attacker"),
        row(["", "clean", "fooled", "", "", "for-", "short-", "", " ends", " on the"]),
        row([
            "photo",
            "label",
            "after",
            " label",
            "asked",
            "warded",
            "circuited",
            "refused",
            " with",
            " model",
        ]),
        "─".repeat(WIDTH),
    ];
    for trial in &duel.trials {
        let [asked, forwarded, replayed, refused] = counts(trial).map(|count| count.to_string());
        let Trial { bare, refrain, .. } = trial;
        rows.push(row([
            trial.photo,
            &clean(bare),
            &bare.fooled.map_or("-".to_owned(), |fooled| fooled.after.to_string()),
            &shown(bare.ended_with(), bare.label),
            &asked,
            &forwarded,
            &replayed,
            &refused,
            &shown(refrain.ended_with(), refrain.label),
            &shown(trial.transferred, bare.label),
        ]));
    }
    let sums = duel
        .trials
        .iter()
        .map(counts)
        .fold([0; 4], |sums, counts| std::array::from_fn(|i| sums[i] + counts[i]));
    let [asked, forwarded, replayed, refused] = sums.map(|count| count.to_string());
    let fooled =
        [duel.fooled_bare(), duel.fooled_through(), duel.transferred()].map(|count| format!("→ {count}"));
    rows.push("─".repeat(WIDTH));
    rows.push(row([
        "in all", "", "", &fooled[0], &asked, &forwarded, &replayed, &refused, &fooled[1], &fooled[2],
    ]));
    rows.join("\n") + "\n"
}

/// Columns of the table.
const WIDTH: usize = 99;

fn row(cells: [&str; 10]) -> String {
    let [photo, clean, after, label, asked, forwarded, replayed, refused, sees, best] = cells;
    let row = format!(
        "{photo:<15} {clean:<9} {after:>6} {label:<11} {asked:>5} {forwarded:>7} {replayed:>9} {refused:>7}  {sees:<11}\
         {best}"
    );
    row.trim_end().to_owned()
}

/// A label, with an arrow if it is another than the clean one.
fn shown(label: usize, clean: usize) -> String {
    let mark = if label == clean { ' ' } else { '→' };
    format!("{mark}{}", LABELS[label])
}

/// Asked, forwarded, short-circuited, refused.
fn counts(trial: &Trial) -> [u64; 4] {
    [trial.refrain.asked, trial.forwarded, trial.short_circuited(), trial.refrain.refused]
}

/// The label of the unchanged photograph, and its probability in hundredths, rounded down.
fn clean(outcome: &Outcome) -> String {
    let hundredths = (outcome.clean[outcome.label] * 100.0).floor().min(99.0);
    format!("{} .{hundredths:02}", LABELS[outcome.label])
}

/// Who succeeded, three ways of counting.
pub(in crate::demo) fn success(duels: &[Duel]) -> String {
    let shadows = match duels.iter().map(|duel| duel.shadows).sum::<u64>() {
        0 => String::new(),
        shadows => format!(
            "\n               {shadows} near-copies among them, for their time alone: the answer was dropped"
        ),
    };
    let mut text = format!(
        "
  →            another label than the clean one: the attack succeeded
  clean label  the model's label for the photo itself, and its probability
  fooled after queries until the bare model gave another label; - if it gave none
  forwarded    what the model server says it was asked; short-circuited: answered without it{shadows}
  refused      RESOURCE_EXHAUSTED: a near-copy that may not be answered from memory; a query spent
  ends with    the label that the attacker was given, through Refrain, for the picture it ended with
  its best     that picture, shown to the bare model afterwards

Attacks that succeeded
"
    );
    for duel in duels {
        let of = duel.trials.len();
        let rows = [
            ("on the bare model", duel.fooled_bare()),
            ("through Refrain, as the attacker saw it", duel.fooled_through()),
            ("through Refrain, its best on the bare model", duel.transferred()),
        ];
        text.push('\n');
        for (i, (what, count)) in rows.into_iter().enumerate() {
            let name = if i == 0 { duel.attack.name() } else { "" };
            let bar = track(count, of, 24);
            let _ = writeln!(text, "  {name:<9}  {what:<43}  {bar}  {count:>2} of {of}");
        }
    }
    duels.iter().flat_map(in_words).for_each(|paragraph| text.push_str(&wrapped(&paragraph)));
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::fits;
    use super::*;
    use crate::demo::attack::Fooled;
    use crate::demo::photos::Picture;

    #[test]
    fn the_widest_table_fits_and_lists_every_photo() {
        let mut clean = [0.0; 10];
        clean[1] = 1.0;
        let outcome =
            |fooled| Outcome { label: 7, clean, asked: 1551, refused: 51, fooled, best: Picture::grey(3) };
        let fooled = Some(Fooled { after: 1551, label: 1 });
        let trial = |photo, fooled, transferred| Trial {
            photo,
            bare: outcome(fooled),
            refrain: outcome(fooled),
            forwarded: 400,
            transferred,
            bare_course: Vec::new(),
            refrain_course: Vec::new(),
        };
        let trials = vec![trial("horse-zaniskari", fooled, 1), trial("bird-kingfisher", None, 7)];
        let duel = Duel { attack: Attack::OnePixel, trials, shadows: 3 };
        let table = table(&duel);
        fits(&table);
        assert!(table.contains("horse-zaniskari") && table.contains("bird-kingfisher"));
        assert!(table.contains("1100"), "short-circuited is what is left: {table}");
        assert!(table.lines().last().unwrap().ends_with("→ 1"), "{table}");
        fits(&success(&[duel]));
        fits(&before(Attack::OnePixel, 12));
        fits(&before(Attack::Square, 12));
    }
}
