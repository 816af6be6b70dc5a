//! What was measured, as text for people: a table, and a plot that needs no other program.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use membership::Position;
use stdx::Prng;

use super::churn::{Churned, Plan, churn};
use super::strategies::{KEYS_PER_NODE, Row, Strategy, Walked};

/// How wrong a copy of all positions is that was right a while ago.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aged {
    /// The age of the copy.
    pub after: Duration,
    /// Keys whose owner is another one now, as a share of all.
    pub wrong: f64,
}

/// Lets a ring of `nodes` members, whose lives have the median `session`, age by `after`; the mean of so many rings
/// that chance does not show.
pub fn age(nodes: usize, session: Duration, after: Duration, seed: u64) -> Aged {
    let rings = ((1 << 16) / nodes).max(1);
    let keys = (50_000 / rings).max(200);
    let mut prng = Prng::from_seed(seed);
    let wrong: usize = (0..rings).map(|_| age_once(nodes, session, after, keys, &mut prng)).sum();
    Aged { after, wrong: wrong as f64 / (rings * keys) as f64 }
}

/// Of so many keys, those whose owner is another one in the end.
fn age_once(nodes: usize, session: Duration, after: Duration, keys: usize, prng: &mut Prng) -> usize {
    let before: BTreeSet<Position> = (0..nodes).map(|_| Position(prng.next_u64())).collect();
    let survives = 0.5f64.powf(after.as_secs_f64() / session.as_secs_f64());
    let mut now: BTreeSet<Position> = BTreeSet::new();
    for position in &before {
        // For each that dies another comes, elsewhere.
        let stays = prng.chance(survives);
        now.insert(if stays { *position } else { Position(prng.next_u64()) });
    }
    let owner = |ring: &BTreeSet<Position>, key| ring.range(key..).next().or(ring.first()).copied();
    let wrong = (0..keys).filter(|_| {
        let key = Position(prng.next_u64());
        owner(&before, key) != owner(&now, key)
    });
    wrong.count()
}

/// How stale what members keep is on a ring of one size, whose members' lives have the median `STALE_SESSION`.
#[derive(Clone, Copy, Debug)]
pub struct Stale {
    /// Members.
    pub nodes: usize,
    /// Keys that a table or a directory finds wrongly which has not been kept up for `STALE_TABLE`.
    pub table: f64,
    /// What the protocol keeps up.
    pub churned: Churned,
}

/// The median life of members where staleness is measured by the size of the ring.
pub const STALE_SESSION: Duration = Duration::from_secs(600);
/// The age of a copy of the table there.
pub const STALE_TABLE: Duration = Duration::from_secs(60);

/// Measures a ring of `nodes` members: for an hour of virtual time when it is small, and for 30 s when it is large.
pub fn stale(nodes: usize) -> Stale {
    let seconds = ((1 << 21) / nodes as u64).clamp(30, 3_600);
    let plan = Plan {
        nodes,
        config: super::config(),
        session: Some(STALE_SESSION),
        length: Duration::from_secs(seconds),
        lookups_per_s: 100.0,
        seed: nodes as u64,
    };
    Stale { nodes, table: age(nodes, STALE_SESSION, STALE_TABLE, nodes as u64).wrong, churned: churn(&plan) }
}

/// What a page is made of.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Hops and entries by the size of the ring.
    pub rows: Vec<Row>,
    /// Staleness by the size of the ring.
    pub stale: Vec<Stale>,
    /// How a copy of the table ages on a ring of 1,000.
    pub aged: Vec<Aged>,
    /// A ring of 1,000 with these median lives.
    pub churned: Vec<(Duration, Churned)>,
}

/// A document about what was measured, with the plot of that name.
pub fn markdown(measured: &Measured, plot: &str) -> String {
    let Measured { rows, stale, aged, churned } = measured;
    let mut text = String::from(INTRODUCTION);
    for row in rows {
        let _ = write!(text, "| {} |", grouped(row.nodes as u64));
        for walked in &row.walked {
            let longest = match walked.strategy {
                Strategy::Fingers => format!(" ({})", walked.hops_max),
                _ => String::new(),
            };
            let digits = if walked.hops < 100.0 { format!("{:.2}", walked.hops) } else { grouped(walked.hops as u64) };
            let _ = write!(text, " {digits}{longest}, {} |", grouped(walked.entries.round() as u64));
        }
        let _ = writeln!(text, " {:.2} |", 0.5 * (row.nodes as f64).log2() + 1.0);
    }
    let _ = writeln!(text, "\n![Hops and entries by the size of the ring]({plot})\n");
    text.push_str(STALENESS);
    for Stale { nodes, table, churned } in stale {
        let _ = writeln!(
            text,
            "| {} | {:.1} % | {:.2} % | {:.2} % | {:.2} % | {:.2} |",
            grouped(*nodes as u64),
            table * 100.0,
            churned.wrong_successor * 100.0,
            churned.stale_successors * 100.0,
            churned.stale_fingers * 100.0,
            churned.hops,
        );
    }
    text.push_str(AGEING);
    text.push_str("| age of a copy | keys it finds wrongly |\n|---:|---:|\n");
    for Aged { after, wrong } in aged {
        let _ = writeln!(text, "| {after:?} | {:.2} % |", wrong * 100.0);
    }
    text.push_str(CHURN);
    for (session, c) in churned {
        let _ = writeln!(
            text,
            "| {} min | {:.2} % | {:.2} % | {:.2} % | {:.2} | {} ms | {} of {} | {} | {:.1} |",
            session.as_secs() / 60,
            c.wrong_successor * 100.0,
            c.stale_successors * 100.0,
            c.stale_fingers * 100.0,
            c.hops,
            c.p99_ms,
            c.failed,
            grouped(c.lookups),
            c.wrong_owner,
            c.messages_per_node_second,
        );
    }
    text
}

const INTRODUCTION: &str = "\
# Four ways to find a key

`everring sim lookups --write docs` (or `make lookups`) measured and wrote this page and its plot. The rings are
simulated, with the production core of Chord in every member; a live fleet shows the same by
`GET /v1/route/{bucket}/{key}?lookup=index|table|neighbours|fingers` on a router, each hop a span of its trace.

- **index**: a directory of all keys. One hop; an entry for each key, everywhere (here 1,000 keys for each member).
- **table**: the tokens of all members, the *view*. One hop; an entry for each member, everywhere. What gateways use.
  (A router asked to look by it asks nobody: the one hop is the request itself.)
- **neighbours**: each member knows the one after it and the one before it. Two entries; a quarter of the ring.
- **fingers**: each member also knows those at distance 2^i. About log2 N entries; about half of log2 N hops.

A hop is a message from one member to another on the way from the asker, who is a member, to the owner, the last one
included. Entries are those that one member keeps. In brackets, the longest way met. Members here have one token each
and lists of 8 successors; a fleet's nodes have more tokens, and lists of 4.

| members | index: hops, entries | table: hops, entries | neighbours: hops, entries | fingers: hops, entries \
| ½ log2 N + 1 |
|---:|---:|---:|---:|---:|---:|
";

const STALENESS: &str = "\
## What staleness costs

Members' lives have a median of 10 minutes; for each that dies another comes elsewhere. The directory of keys and the
table are copies: one that has not been kept up for a minute finds so many keys wrongly, by drawing who is gone by then
and who has come. Neighbours and fingers are kept
up by the protocol, deaths noticed by silence alone: so many first successors are wrong, so many entries of successor
lists and of finger tables are dead, at a moment in the second half of the run. Lookups are by fingers, confirmed by the
owner, which is one hop more:

| members | index, table: keys after a minute | neighbours: first successor wrong | dead in successor lists \
| dead fingers | hops |
|---:|---:|---:|---:|---:|---:|
";

const AGEING: &str = "
1,000 members with the same lives: a table, and so a directory of keys, by its age:

";

const CHURN: &str = "
1,000 members by the median of their lives, looked at every 5 seconds; a lookup has failed after 5 seconds:

| median life | first successor wrong | dead successors | dead fingers | hops | p99 | failed | wrong owner \
| messages a member and second |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|
";

/// A number with commas between its thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const COLOURS: [&str; 4] = ["#9467bd", "#1f77b4", "#d62728", "#2ca02c"];
const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 300.0;

/// Three panels, hops, entries and staleness by the size of the ring, the axes logarithmic, as SVG.
pub fn plot(rows: &[Row], stale: &[Stale]) -> String {
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1380 400\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"1380\" height=\"400\" fill=\"white\"/>\n",
    );
    let by_strategy = |of: fn(&Walked) -> f64| -> Vec<Line> {
        let line = |strategy: usize| rows.iter().map(|row| (row.nodes, of(&row.walked[strategy]))).collect();
        (0..Strategy::ALL.len()).map(|strategy| (COLOURS[strategy], line(strategy))).collect()
    };
    panel(&mut svg, 60.0, "hops to the owner", &by_strategy(|walked| walked.hops.max(0.5)));
    panel(&mut svg, 520.0, "entries that a member keeps", &by_strategy(|walked| walked.entries));
    let line = |of: fn(&Stale) -> f64| stale.iter().map(|one| (one.nodes, (100.0 * of(one)).max(0.5))).collect();
    let lines: [Line; 3] = [
        (COLOURS[1], line(|one| one.table)),
        (COLOURS[2], line(|one| one.churned.stale_successors)),
        (COLOURS[3], line(|one| one.churned.stale_fingers)),
    ];
    panel(&mut svg, 980.0, "stale under churn, in 100 (at least 0.5)", &lines);
    for (at, strategy) in Strategy::ALL.into_iter().enumerate() {
        let x = 150.0 + 170.0 * at as f64;
        let colour = COLOURS[at];
        let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"385\" r=\"5\" fill=\"{colour}\"/>");
        let _ = writeln!(svg, "<text x=\"{}\" y=\"389\">{}: {}</text>", x + 10.0, at, strategy.name());
    }
    svg.push_str("</svg>\n");
    svg
}

/// A line of a panel: its colour, and values by the size of the ring.
type Line = (&'static str, Vec<(usize, f64)>);

fn panel(svg: &mut String, left: f64, title: &str, lines: &[Line]) {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let top = points().map(|point| point.1).fold(1.0, f64::max).log10().ceil().max(1.0);
    let sizes: BTreeSet<usize> = points().map(|point| point.0).collect();
    let (low, high) = (sizes.first().map_or(1, |nodes| *nodes), sizes.last().map_or(2, |nodes| *nodes));
    let (low, high) = ((low as f64).log2(), (high as f64).log2().max((low as f64).log2() + 1.0));
    let x = |nodes: usize| left + WIDTH * ((nodes as f64).log2() - low) / (high - low);
    let y = |value: f64| 40.0 + HEIGHT * (1.0 - (value.log10() + 0.3) / (top + 0.3));
    let _ = writeln!(svg, "<text x=\"{left}\" y=\"25\" font-size=\"15\">{title}</text>");
    for power in 0..=top as i32 {
        let (at, label) = (y(10f64.powi(power)), grouped(10u64.pow(power as u32)));
        let right = left + WIDTH;
        let _ = writeln!(svg, "<line x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>");
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"9\">{label}</text>",
            left - 4.0,
            at + 3.0
        );
    }
    // Each label has room for itself.
    let each = sizes.len().div_ceil(10);
    for nodes in sizes.into_iter().step_by(each) {
        let (at, power) = (x(nodes), (nodes as f64).log2());
        let _ =
            writeln!(svg, "<text x=\"{at:.1}\" y=\"360\" font-size=\"9\" text-anchor=\"middle\">2^{power:.0}</text>");
    }
    for (colour, points) in lines {
        let points: Vec<String> =
            points.iter().map(|(nodes, value)| format!("{:.1},{:.1}", x(*nodes), y(*value))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
    }
}

/// So that the words and the number agree.
const _: () = assert!(KEYS_PER_NODE == 1_000);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::large::measure;

    #[test]
    fn a_copy_ages_as_members_go() {
        let session = Duration::from_secs(600);
        let [fresh, old] = [0, 600].map(|s| age(1_000, session, Duration::from_secs(s), 1).wrong);
        assert_eq!(fresh, 0.0);
        // Half of the members are gone, and half of the rest's keys have gone to newcomers.
        assert!((0.6..0.9).contains(&old), "{old}");
    }

    #[test]
    fn the_page_has_a_line_for_each_size() {
        let rows = vec![measure(8, 50, 1), measure(64, 50, 1)];
        let measured = Measured {
            aged: vec![age(100, Duration::from_secs(60), Duration::from_secs(6), 1)],
            churned: vec![(Duration::from_secs(60), Churned::default())],
            stale: vec![Stale { nodes: 64, table: 0.125, churned: Churned::default() }],
            rows,
        };
        let text = markdown(&measured, "p.svg");
        assert!(text.contains("\n| 8 |") && text.contains("\n| 64 |") && text.contains("(p.svg)"), "{text}");
        assert!(text.contains("| 1 min |") && text.contains("| 64 | 12.5 % | 0.00 % |"), "{text}");
        let svg = plot(&measured.rows, &measured.stale);
        assert_eq!(svg.matches("<polyline").count(), 11);
        assert_eq!(grouped(1_048_576), "1,048,576");
    }
}
