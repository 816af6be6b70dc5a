//! The planted bugs: those of the fleet's simulator by the program's own command, and the variants of the Chord core by
//! that crate's simulation.

use anyhow::{Context, Result, bail, ensure};
use chord::rules::{
    NoHealing, NoLivenessOnRectify, NoLivenessOnStabilize, NoPullOnJoin, Published2001, Rules, SelfInList,
};
use chord::testing::{Kind, Plan, run};
use serde_json::{Value, json};

use crate::everring::{Everring, words};
use crate::{Extent, Part};

/// Seeds within which each bug must be found: 1,000 do for all but the rarest, a missing floor.
const SEEDS_MAX: u64 = 2_000;

/// Looks for each planted bug.
pub fn measure(everring: &Everring, _extent: Extent, _seed: u64) -> Result<Part> {
    let listed = everring.run(&words(&["sim", "bugs"]))?;
    let mut finds: Vec<(String, Option<(u64, String)>)> = Vec::new();
    for name in listed.stdout.split_whitespace() {
        finds.push((name.to_owned(), in_the_fleet(everring, name)?));
    }
    ensure!(!finds.is_empty(), "`everring sim bugs` lists none");
    finds.extend(in_chord());
    let found = finds.iter().filter(|(_, find)| find.is_some()).count();
    let details = finds.iter().map(|(name, find)| match find {
        Some((seed, what)) => json!({"bug": name, "seed": seed, "found": what}),
        None => json!({"bug": name, "seed": null}),
    });
    Ok(Part {
        details: Value::Array(details.collect()),
        figures: vec![("planted_found", json!(found)), ("planted_total", json!(finds.len()))],
    })
}

/// The first seed that finds the bug, and what it breaks.
fn in_the_fleet(everring: &Everring, bug: &str) -> Result<Option<(u64, String)>> {
    let seeds = SEEDS_MAX.to_string();
    let args = ["sim", "run", "--seeds", &seeds, "--planted", bug, "--until-found", "--output", "json"];
    let summary = everring.run(&words(&args))?.json().with_context(|| format!("sim run --planted {bug}"))?;
    if summary["violations"] == 0 {
        return Ok(None);
    }
    let first = &summary["first_violation"];
    match (first["seed"].as_u64(), first["what"].as_str()) {
        (Some(seed), Some(what)) => Ok(Some((seed, what.to_owned()))),
        _ => bail!("sim run --planted {bug} found something and does not say what: {summary}"),
    }
}

fn in_chord() -> Vec<(String, Option<(u64, String)>)> {
    let named = |name: &str, find| (format!("chord-{name}"), find);
    vec![
        named("published-2001", first_breach::<Published2001>(Kind::Accurate)),
        named("no-liveness-on-stabilize", first_breach::<NoLivenessOnStabilize>(Kind::Accurate)),
        named("no-liveness-on-rectify", first_breach::<NoLivenessOnRectify>(Kind::Accurate)),
        named("no-pull-on-join", first_breach::<NoPullOnJoin>(Kind::Accurate)),
        named("self-in-list", first_breach::<SelfInList>(Kind::Accurate)),
        named("no-healing", first_breach::<NoHealing>(Kind::Wild)),
    ]
}

fn first_breach<R: Rules>(kind: Kind) -> Option<(u64, String)> {
    (0..SEEDS_MAX).find_map(|seed| {
        let (_, violation) = run::<R>(&Plan::draw(seed, kind), false).violation?;
        Some((seed, violation.to_string()))
    })
}
