//! Pages for people, and the description for machines. All of it is fixed text.

use std::fmt::Write as _;

use actix_web::HttpResponse;
use wire::http::ProblemCode;

use crate::problem::Refuse;
use crate::routes::ROUTES;

/// The OpenAPI description; held to [`ROUTES`] by a test.
pub const OPENAPI: &str = include_str!("openapi.json");

/// `GET /openapi.json`
pub fn openapi() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(OPENAPI)
}

/// `GET /problems/{code}`
///
/// # Errors
/// `no-such-path` for a code that there is none of.
pub fn problem(code: &str) -> Result<HttpResponse, Refuse> {
    let Some(known) = ProblemCode::from_code(code) else {
        return Err(Refuse::new(ProblemCode::NoSuchPath, "there is no problem of this code; `/docs` lists them"));
    };
    let retry = if known.retryable() {
        "The same request may succeed later."
    } else {
        "Sending the same request again does not help."
    };
    let text = format!(
        "<h1>{}</h1><p><code>{known}</code>, HTTP {}</p><p>{}</p><p>{retry}</p>\
         <p><a href=\"/docs\">All calls and problems</a></p>",
        escaped(known.title()),
        known.status(),
        escaped(known.advice()),
    );
    Ok(page(known.title(), &text))
}

/// `GET /docs`
pub fn docs() -> HttpResponse {
    let mut text =
        String::from("<h1>Everring gateway</h1><p>For machines: <a href=\"/openapi.json\">openapi.json</a></p><table>");
    for route in ROUTES {
        let verbs = route.verbs.iter().map(|verb| verb.name()).collect::<Vec<_>>().join(" ");
        // Writing to a String cannot fail.
        let _ =
            write!(text, "<tr><td>{verbs}</td><td><code>{}</code></td><td>{}</td></tr>", route.pattern, route.summary);
    }
    text.push_str("</table><h2>Problems</h2><table>");
    for code in ProblemCode::ALL {
        let (page, status, title) = (code.page(), code.status(), escaped(code.title()));
        let _ = write!(text, "<tr><td>{status}</td><td><a href=\"{page}\">{code}</a></td><td>{title}</td></tr>");
    }
    text.push_str("</table>");
    page("Everring gateway", &text)
}

fn page(title: &str, body: &str) -> HttpResponse {
    let title = escaped(title);
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
         <style>body{{font:16px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}\
         td{{padding:.2em .6em;vertical-align:top}}</style>{body}</html>"
    ))
}

/// Text made safe for HTML; our own texts need it only for their `<` and `&`.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_description_has_exactly_the_routes() {
        let json: serde_json::Value = serde_json::from_str(OPENAPI).expect("it is JSON");
        let mut described = BTreeSet::new();
        for (path, calls) in json["paths"].as_object().expect("paths") {
            for (verb, call) in calls.as_object().expect("calls").iter().filter(|(verb, _)| *verb != "parameters") {
                assert!(
                    call["responses"].as_object().is_some_and(|all| !all.is_empty()),
                    "{verb} {path}: no responses"
                );
                described.insert(format!("{} {path}", verb.to_uppercase()));
            }
        }
        let routes = ROUTES.iter().flat_map(|route| route.verbs.iter().map(move |verb| (verb.name(), route.pattern)));
        let known: BTreeSet<String> = routes.map(|(verb, path)| format!("{verb} {path}")).collect();
        assert_eq!(described, known);
    }

    #[test]
    fn the_description_names_every_problem_code() {
        let json: serde_json::Value = serde_json::from_str(OPENAPI).expect("it is JSON");
        let listed = &json["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
        let listed: BTreeSet<&str> =
            listed.as_array().expect("a list").iter().filter_map(|code| code.as_str()).collect();
        assert_eq!(listed, ProblemCode::ALL.iter().map(|code| code.code()).collect());
    }
}
