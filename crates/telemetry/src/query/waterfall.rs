//! A trace as text: an indented tree with bars, for the terminal.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{Span, Trace};
use crate::names;

/// The trace as one line a span, each at most `width` columns (at least 60): tree and name, process, bar, milliseconds.
///
/// A `?` stands before a span whose parent did not come in, a `!` before one that failed, with its `error.type`. The
/// text is made of ASCII and block characters and has no colours.
pub fn render_waterfall(trace: &Trace, width: usize) -> String {
    let rows = rows(trace);
    let width = width.max(WIDTH_MIN);
    let longest = |text: fn(&Row<'_>) -> String| rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0);
    let label_width = longest(label).min(width * 2 / 5);
    let process_width = longest(process).min(width / 4);
    let bar_width = width.saturating_sub(label_width + process_width + TIME_WIDTH + 4).max(8);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let duration_ms = trace.duration_us() as f64 / 1_000.0;
    let _ = writeln!(text, "trace {:032x}  {duration_ms:.2} ms  {} spans", trace.id, rows.len());
    for row in &rows {
        let _ = writeln!(
            text,
            "{} {} |{}|{:>TIME_WIDTH$}",
            fit(&label(row), label_width),
            fit(&process(row), process_width),
            bar(trace, row.span, bar_width),
            format!("{:.2} ms", row.span.duration_us as f64 / 1_000.0),
        );
    }
    if rows.iter().any(|row| row.orphan) {
        text.push_str("?  its parent did not come in: that process was killed, or is still sending\n");
    }
    text
}

/// A span with its place in the tree.
struct Row<'a> {
    span: &'a Span,
    depth: usize,
    orphan: bool,
}

/// Depth first. Each span once, even if ids repeat or parents go round in a circle, which only a broken sender does.
fn rows(trace: &Trace) -> Vec<Row<'_>> {
    let tops = trace.spans.iter().filter(|span| span.parent.is_none() || trace.parent_is_missing(span));
    let mut rows = Vec::with_capacity(trace.spans.len());
    let mut shown = BTreeSet::new();
    for top in tops.chain(&trace.spans) {
        let mut open = vec![(top, 0)];
        while let Some((span, depth)) = open.pop() {
            if !shown.insert(std::ptr::from_ref(span)) {
                continue;
            }
            rows.push(Row { span, depth, orphan: trace.parent_is_missing(span) });
            let mut children: Vec<_> = trace.children(span).map(|child| (child, depth + 1)).collect();
            children.reverse();
            open.append(&mut children);
        }
    }
    rows
}

fn label(row: &Row<'_>) -> String {
    let mut label = "  ".repeat(row.depth.min(DEPTH_MAX));
    if row.orphan {
        label.push_str("? ");
    }
    if row.span.error {
        label.push_str("! ");
    }
    label.push_str(&row.span.name);
    // A pair of spans tells both sides of one step; the sides look alike but for this.
    match row.span.kind.as_str() {
        "client" => label.push_str(" >"),
        "server" => label.push_str(" <"),
        _ => {}
    }
    if let Some(replica) = row.span.tag(names::REPLICA).filter(|_| row.span.kind == "client") {
        label.push(' ');
        label.push_str(replica);
    }
    if let Some(error) = row.span.tag(names::ERROR_TYPE) {
        let _ = write!(label, " [{error}]");
    }
    label
}

fn process(row: &Row<'_>) -> String {
    let Span { service, instance, .. } = row.span;
    let service = service.strip_prefix("everring-").unwrap_or(service);
    if instance.is_empty() { service.to_string() } else { format!("{service}.{instance}") }
}

fn bar(trace: &Trace, span: &Span, width: usize) -> String {
    let all = trace.duration_us().max(1) as u128;
    // Rounded so that every span has at least one column, and none leaves the frame.
    let column = |us: u64| (u128::from(us) * width as u128 / all) as usize;
    let start = column(span.start_us.saturating_sub(trace.start_us())).min(width - 1);
    let end = column(span.end_us().saturating_sub(trace.start_us())).clamp(start + 1, width);
    let filled = if span.error { "x" } else { "█" };
    format!("{}{}{}", " ".repeat(start), filled.repeat(end - start), " ".repeat(width - end))
}

/// Exactly `width` columns: filled up, or cut with a mark.
fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return format!("{text:<width$}");
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Narrower, no bar could be read.
const WIDTH_MIN: usize = 60;
/// `12345.67 ms` and a space.
const TIME_WIDTH: usize = 12;
/// Deeper levels are drawn at this one.
const DEPTH_MAX: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: u64, parent: Option<u64>, name: &str, start_us: u64, duration_us: u64) -> Span {
        let (name, service, instance) = (name.into(), "everring-gateway".into(), "g1-7".into());
        Span { id, parent, name, service, instance, start_us, duration_us, ..Span::default() }
    }

    #[test]
    fn the_tree_its_bars_and_its_marks() {
        let mut failed = span(2, Some(1), "PUT records", 1_000, 2_000);
        failed.error = true;
        failed.kind = "client".into();
        failed.tags.insert(names::REPLICA.into(), "n3".into());
        failed.tags.insert(names::ERROR_TYPE.into(), "reset".into());
        let spans = vec![span(1, None, "PUT", 0, 10_000), failed, span(4, Some(3), "accept", 5_000, 4_000)];
        let text = render_waterfall(&Trace { id: 0xabc, spans }, 80);
        let expected = "\
trace 00000000000000000000000000000abc  10.00 ms  3 spans
PUT                          gateway.g1-7 |████████████████████████|    10.00 ms
  ! PUT records > n3 [reset] gateway.g1-7 |  xxxxx                 |     2.00 ms
? accept                     gateway.g1-7 |            █████████   |     4.00 ms
?  its parent did not come in: that process was killed, or is still sending
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_circle_of_parents_and_a_doubled_id_are_drawn_once_each() {
        let spans = vec![
            span(1, Some(2), "a", 0, 5),
            span(2, Some(1), "b", 1, 5),
            span(2, Some(1), "c", 2, 5),
            span(3, Some(3), "d", 3, 0),
        ];
        let text = render_waterfall(&Trace { id: 1, spans }, 0);
        for name in ["a", "b", "c", "d"] {
            assert_eq!(
                text.lines().filter(|line| line.trim_start().starts_with(&format!("{name} "))).count(),
                1,
                "{text}"
            );
        }
        assert_eq!(render_waterfall(&Trace::default(), 80).lines().count(), 1);
    }

    #[test]
    fn no_line_is_wider_than_asked() {
        let name = "a very long name of a span indeed, longer than any that we have";
        let spans = (1..40).map(|id| span(id, (id > 1).then(|| id - 1), name, id, 1_000)).collect();
        let text = render_waterfall(&Trace { id: 1, spans }, 100);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
