//! The one-pixel attack: differential evolution over the places and colours of a few pixels.

use super::{Oracle, Search};
use crate::demo::DemoError;
use crate::demo::model::Scores;
use crate::demo::photos::{Picture, SIDE};
use crate::demo::random::Random;

/// Pixels changed: five, the most that its authors use, because one seldom suffices.
const PIXELS: usize = 5;

/// Candidates in the population: an eighth of its authors' 400, so that the demo ends within a minute.
const POPULATION: usize = 50;

/// Generations after the first: fewer than its authors' 100, for the same reason.
const GENERATIONS: usize = 30;

/// The weight of a difference, as its authors have it; like them we do not cross over.
const F: f64 = 0.5;

/// The most questions that it asks.
pub(super) const BUDGET: u64 = (POPULATION * (GENERATIONS + 1)) as u64;

/// What stands for a score that was refused: worse than any.
const WORST: f32 = f32::INFINITY;

pub(super) fn tells() -> String {
    format!(
        "Su et al. 2019: differential evolution over the places and colours of {PIXELS} pixels, population \
         {POPULATION},\n{GENERATIONS} generations, F = {F}: at most {BUDGET} queries after the photo itself."
    )
}

/// A candidate: for each pixel its column, row, red, green and blue.
type Genes = [[f64; 5]; PIXELS];

/// Searches until another class is seen or no question is left; the best candidate.
pub(super) async fn search<O: Oracle>(
    search: &mut Search<'_, O>,
    photo: &Picture,
    mut random: Random,
) -> Result<Picture, DemoError> {
    let mut population: Vec<(Genes, f32)> = Vec::with_capacity(POPULATION);
    while population.len() < POPULATION && search.goes_on() {
        let genes = drawn(&mut random);
        let fitness = fitness(search, &express(&genes, photo)).await?;
        if search.fooled.is_some() {
            return Ok(express(&genes, photo));
        }
        population.push((genes, fitness));
    }
    while search.goes_on() {
        let parents = population.clone();
        for (i, place) in population.iter_mut().enumerate() {
            if !search.goes_on() {
                break;
            }
            let genes = child(&parents, i, &mut random);
            let fitness = fitness(search, &express(&genes, photo)).await?;
            if search.fooled.is_some() {
                return Ok(express(&genes, photo));
            }
            // A child takes its own parent's place if it is better; an equal one, as every replayed one is, does not.
            if fitness < place.1 {
                *place = (genes, fitness);
            }
        }
    }
    let best = population.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    Ok(best.map_or_else(|| photo.clone(), |(genes, _)| express(genes, photo)))
}

/// The score of the photograph's own class: the less, the fitter.
async fn fitness<O: Oracle>(search: &mut Search<'_, O>, candidate: &Picture) -> Result<f32, DemoError> {
    let scores: Option<Scores> = search.ask(candidate).await?;
    Ok(scores.map_or(WORST, |scores| scores[search.label]))
}

fn drawn(random: &mut Random) -> Genes {
    // As its authors draw them: places uniform, colours normal about the middle.
    let colour = |random: &mut Random| 128.0 + 127.0 * random.normal();
    std::array::from_fn(|_| {
        let place = [random.unit() * SIDE as f64, random.unit() * SIDE as f64];
        [place[0], place[1], colour(random), colour(random), colour(random)]
    })
    .map(bounded)
}

fn child(parents: &[(Genes, f32)], own: usize, random: &mut Random) -> Genes {
    let [first, second, third] = three_others(parents.len(), own, random).map(|i| &parents[i].0);
    std::array::from_fn(|pixel| {
        bounded(std::array::from_fn(|gene| {
            first[pixel][gene] + F * (second[pixel][gene] - third[pixel][gene])
        }))
    })
}

fn three_others(many: usize, own: usize, random: &mut Random) -> [usize; 3] {
    let mut chosen = [own; 3];
    for at in 0..3 {
        loop {
            let other = random.below(many);
            if other != own && !chosen[..at].contains(&other) {
                chosen[at] = other;
                break;
            }
        }
    }
    chosen
}

fn bounded(pixel: [f64; 5]) -> [f64; 5] {
    let most = [SIDE as f64 - 1.0, SIDE as f64 - 1.0, 255.0, 255.0, 255.0];
    std::array::from_fn(|gene| pixel[gene].clamp(0.0, most[gene]))
}

fn express(genes: &Genes, photo: &Picture) -> Picture {
    let mut picture = photo.clone();
    for [x, y, rgb @ ..] in genes {
        picture.set(x.round() as usize, y.round() as usize, rgb.map(|level| level.round() as u8));
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_others_are_three_others() {
        let mut random = Random::of(1, "others");
        for own in 0..200 {
            let own = own % 4;
            let mut chosen = three_others(4, own, &mut random).to_vec();
            chosen.push(own);
            chosen.sort_unstable();
            assert_eq!(chosen, [0, 1, 2, 3]);
        }
    }
}
