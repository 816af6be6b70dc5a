//! What was measured, as text for people: a table, and a plot that needs no other program.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use membership::Position;
use stdx::Prng;

use super::churn::Churned;
use super::strategies::{KEYS_PER_NODE, Row, Strategy};

/// How wrong a copy of all positions is that was right a while ago.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aged {
    /// The age of the copy.
    pub after: Duration,
    /// Keys whose owner is another one now, as a share of all.
    pub wrong: f64,
}

/// Lets a ring of `nodes` members, whose lives have the median `session`, age by `after`.
pub fn age(nodes: usize, session: Duration, after: Duration, seed: u64) -> Aged {
    const KEYS: usize = 50_000;
    let mut prng = Prng::from_seed(seed);
    let before: BTreeSet<Position> = (0..nodes).map(|_| Position(prng.next_u64())).collect();
    let survives = 0.5f64.powf(after.as_secs_f64() / session.as_secs_f64());
    let mut now: BTreeSet<Position> = BTreeSet::new();
    for position in &before {
        // For each that dies another comes, elsewhere.
        let stays = prng.chance(survives);
        now.insert(if stays { *position } else { Position(prng.next_u64()) });
    }
    let owner = |ring: &BTreeSet<Position>, key| ring.range(key..).next().or(ring.first()).copied();
    let wrong = (0..KEYS).filter(|_| {
        let key = Position(prng.next_u64());
        owner(&before, key) != owner(&now, key)
    });
    Aged { after, wrong: wrong.count() as f64 / KEYS as f64 }
}

/// A document about `rows`, about how a copy of the table ages, and about the ring under churn with these median
/// sessions.
pub fn markdown(rows: &[Row], aged: &[Aged], churned: &[(Duration, Churned)], plot: &str) -> String {
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
- **neighbours**: each member knows the one after it and the one before it. Two entries; a quarter of the ring.
- **fingers**: each member also knows those at distance 2^i. About log2 N entries; about half of log2 N hops.

A hop is a message from one member to another on the way from the asker, who is a member, to the owner, the last one
included. Entries are those that one member keeps. In brackets, the longest way met.

| members | index: hops, entries | table: hops, entries | neighbours: hops, entries | fingers: hops, entries \
| ½ log2 N + 1 |
|---:|---:|---:|---:|---:|---:|
";

const STALENESS: &str = "\
## What staleness costs

1,000 members whose lives have a median of 10 minutes; for each that dies another comes elsewhere. A copy of the
table, and so a directory of keys, that is no longer kept up finds so many keys wrongly:

";

const CHURN: &str = "
Neighbours and fingers are kept up by the protocol itself. 1,000 members, deaths noticed by silence alone, looked at
every 5 seconds; lookups are by fingers, confirmed by the owner, and have failed after 5 seconds:

| median life | first successor wrong | dead successors | dead fingers | hops | p99 | failed | wrong owner \
| messages a member and second |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|
";

fn grouped(number: u64) -> String {
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

/// Two panels, hops and entries by the size of the ring, both axes logarithmic, as SVG.
pub fn plot(rows: &[Row]) -> String {
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 920 400\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"920\" height=\"400\" fill=\"white\"/>\n",
    );
    panel(&mut svg, 60.0, "hops to the owner", rows, |walked| walked.hops.max(0.5));
    panel(&mut svg, 520.0, "entries that a member keeps", rows, |walked| walked.entries);
    for (at, strategy) in Strategy::ALL.into_iter().enumerate() {
        let x = 150.0 + 170.0 * at as f64;
        let colour = COLOURS[at];
        let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"385\" r=\"5\" fill=\"{colour}\"/>");
        let _ = writeln!(svg, "<text x=\"{}\" y=\"389\">{}: {}</text>", x + 10.0, at, strategy.name());
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, left: f64, title: &str, rows: &[Row], of: impl Fn(&super::strategies::Walked) -> f64) {
    let values = rows.iter().flat_map(|row| row.walked.iter().map(&of));
    let top = values.fold(1.0, f64::max).log10().ceil().max(1.0);
    let (low, high) = (rows.first().map_or(1, |row| row.nodes), rows.last().map_or(2, |row| row.nodes));
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
    for row in rows {
        let (at, power) = (x(row.nodes), (row.nodes as f64).log2());
        let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"360\" text-anchor=\"middle\">2^{power:.0}</text>");
    }
    for (strategy, colour) in COLOURS.iter().enumerate() {
        let points = rows.iter().map(|row| format!("{:.1},{:.1}", x(row.nodes), y(of(&row.walked[strategy]))));
        let points: Vec<String> = points.collect();
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
        let rows = [measure(8, 50, 1), measure(64, 50, 1)];
        let aged = [age(100, Duration::from_secs(60), Duration::from_secs(6), 1)];
        let text = markdown(&rows, &aged, &[(Duration::from_secs(60), Churned::default())], "p.svg");
        assert!(text.contains("\n| 8 |") && text.contains("\n| 64 |") && text.contains("(p.svg)"), "{text}");
        assert!(text.contains("| 1 min |"), "{text}");
        let svg = plot(&rows);
        assert_eq!(svg.matches("<polyline").count(), 8);
        assert_eq!(grouped(1_048_576), "1,048,576");
    }
}
