//! A page for people: services with their checks, nodes, sessions, and the indexes; rendered here, without a script.

use std::fmt::Write as _;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use registry::{Node, Registry, Resource, Service, Status, Watch};

use crate::access::{Guard, secret_of};
use crate::host::{DATACENTER, Host, NODE};
use crate::params::Params;
use crate::raft_calls;

/// The most instances that are listed; the page says how many more there are.
const ROWS_MAX: usize = 500;

/// `GET /ui/`.
pub(crate) async fn page(request: HttpRequest, host: Data<Host>) -> HttpResponse {
    let registry = host.shown();
    let secret = secret_of(&request, &Params::parse(request.query_string()));
    let guard = match Guard::of(&registry, &host.acl, secret) {
        Ok(guard) => guard,
        Err(refused) => return refused.response(),
    };
    let leader = raft_calls::leader(&host);
    let html = render(&registry, &guard, leader.as_str().unwrap_or_default(), host.failure().cloned());
    HttpResponse::Ok()
        // Names and outputs are other people's: nothing in them may run, whatever they hold.
        .insert_header(("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"))
        .insert_header(("Cache-Control", "no-store"))
        .content_type("text/html; charset=utf-8")
        .body(html)
}

fn render(registry: &Registry, guard: &Guard, address: &str, failure: Option<String>) -> String {
    let mut html = String::from(HEAD);
    let trouble = failure.map(|why| format!(" <b class=critical>disk: {}</b>", escape(&why))).unwrap_or_default();
    // Writing to a String cannot fail, here and below.
    let _ = write!(
        html,
        "<h1>discovery <small>{DATACENTER} · {NODE} · in charge: {} · index {}{trouble}</small></h1>",
        escape(address),
        registry.index(),
    );
    services(&mut html, registry, guard);
    nodes(&mut html, registry, guard);
    sessions(&mut html, registry, guard);
    html.push_str("</body></html>\n");
    html
}

fn services(html: &mut String, registry: &Registry, guard: &Guard) {
    html.push_str(
        "<h2>Services</h2><table><tr><th>service<th>index<th>instance<th>node<th>address<th>tags<th>checks</tr>",
    );
    let (mut rows, mut left_out) = (0, 0);
    for name in registry.service_names().filter(|name| guard.sees(Resource::Service, name)) {
        let index = registry.index_of(&Watch::Service(name.clone()));
        let seen = registry.instances_of(name).filter(|(node, _)| guard.sees(Resource::Node, &node.definition.name));
        for (node, service) in seen {
            if rows == ROWS_MAX {
                left_out += 1;
                continue;
            }
            rows += 1;
            let definition = &service.definition;
            let host = if definition.address.is_empty() { &node.definition.address } else { &definition.address };
            let _ = write!(
                html,
                "<tr><td>{}<td>{index}<td>{}<td>{}<td>{}:{}<td>{}<td>{}</tr>",
                escape(name),
                escape(&definition.id),
                escape(&node.definition.name),
                escape(host),
                definition.port,
                escape(&definition.tags.join(", ")),
                checks(registry, node, Some(service)),
            );
        }
    }
    html.push_str("</table>");
    if left_out > 0 {
        let _ =
            write!(html, "<p>{left_out} more instances are not listed here; ask <code>/v1/health/service/…</code></p>");
    }
}

fn nodes(html: &mut String, registry: &Registry, guard: &Guard) {
    html.push_str("<h2>Nodes</h2><table><tr><th>node<th>index<th>address<th>instances<th>checks</tr>");
    for node in registry.nodes().filter(|node| guard.sees(Resource::Node, &node.definition.name)).take(ROWS_MAX) {
        let name = &node.definition.name;
        let _ = write!(
            html,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            escape(name),
            registry.index_of(&Watch::Node(name.clone())),
            escape(&node.definition.address),
            registry.services_on(name).count(),
            checks(registry, node, None),
        );
    }
    html.push_str("</table>");
}

fn sessions(html: &mut String, registry: &Registry, guard: &Guard) {
    html.push_str("<h2>Sessions</h2><table><tr><th>session<th>name<th>node<th>behaviour<th>TTL</tr>");
    let seen = registry.sessions().filter(|session| guard.sees(Resource::Session, &session.definition.node));
    for session in seen.take(ROWS_MAX) {
        let definition = &session.definition;
        let ttl = definition.ttl.map(|ttl| format!("{} s", ttl.as_secs())).unwrap_or_default();
        let _ = write!(
            html,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{ttl}</tr>",
            escape(&definition.id),
            escape(&definition.name),
            escape(&definition.node),
            definition.behavior.word(),
        );
    }
    html.push_str("</table>");
}

/// The checks of an instance, or those of a node alone.
fn checks(registry: &Registry, node: &Node, service: Option<&Service>) -> String {
    let owner = service.map(|service| &service.definition.id);
    let own = registry.checks_on(&node.definition.name).filter(|check| check.definition.service_id.as_ref() == owner);
    let mut html = String::new();
    for check in own {
        let _ = write!(
            html,
            "<span class={} title=\"{}\">{} {}</span> ",
            match check.status {
                Status::Passing => "passing",
                Status::Warning => "warning",
                Status::Critical => "critical",
            },
            escape(&check.output),
            check.status,
            escape(&check.definition.id),
        );
    }
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

const HEAD: &str = "<!doctype html><html lang=en><head><meta charset=utf-8><meta http-equiv=refresh content=5>\
    <meta name=viewport content=\"width=device-width\"><title>discovery</title><style>\
    body{font:15px system-ui,sans-serif;margin:2em;color:#222;background:#fff}small{font-size:.55em;color:#555}\
    table{border-collapse:collapse;margin-bottom:1.5em}td,th{padding:.2em .8em .2em 0;text-align:left}\
    th{color:#555;font-weight:normal;border-bottom:1px solid #bbb}.passing{color:#17692f}.warning{color:#8a5a00}\
    .critical{color:#b00020;font-weight:bold}@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}\
    small,th{color:#999}.passing{color:#6fcf8a}.warning{color:#e0b050}.critical{color:#ff7b8a}}</style></head><body>";

#[cfg(test)]
mod tests {
    use registry::{CheckDefinition, Command, NodeDefinition, ServiceDefinition};
    use stdx::Instant;

    use super::*;
    use crate::access::AclConfig;

    #[test]
    fn the_page_shows_what_there_is_and_runs_nothing_of_it() {
        let mut registry = Registry::new();
        let node = NodeDefinition { name: "n1".into(), address: "10.0.0.1".into(), ..NodeDefinition::default() };
        let evil = "<script>alert('x')</script>";
        let service = ServiceDefinition { id: evil.into(), name: "web".into(), ..ServiceDefinition::default() };
        let check = CheckDefinition { id: "c".into(), output: format!("\"{evil}"), ..CheckDefinition::default() };
        for command in [
            Command::RegisterNode(node),
            Command::RegisterService { node: "n1".into(), service, checks: vec![check], replace_checks: false },
        ] {
            registry.apply(Instant::ZERO, command);
            registry.take_changes();
        }
        let config = AclConfig::default();
        let guard = Guard::of(&registry, &config, String::new()).expect("open to everybody");
        let html = render(&registry, &guard, "127.0.0.1:8500", Some("full".into()));
        assert!(html.contains("critical c") && html.contains("disk: full") && html.contains("10.0.0.1:0"), "{html}");
        assert!(!html.contains("<script>"), "{html}");
        let closed = AclConfig { enabled: true, default_deny: true, ..config };
        let guard = Guard::of(&registry, &closed, String::new()).expect("the anonymous token");
        assert!(!render(&registry, &guard, "x", None).contains("web"), "what may not be seen is not shown");
    }
}
