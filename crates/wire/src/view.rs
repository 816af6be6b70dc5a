//! The JSON of a [`View`]: what stands under the key `everring/view` in discovery, and in nodes' view caches.
//!
//! Identities and positions are 16 hexadecimal digits in a string, because JSON numbers lose bits beyond 2^53 in many
//! readers. Unknown fields are ignored, so that an older reader survives a newer writer.

use membership::{ClusterId, Epoch, Member, NodeId, Position, View, ViewError};
use serde::{Deserialize, Serialize};

/// Why a text is no view. Nothing was changed; whoever wrote the key must act.
#[derive(Debug, thiserror::Error)]
pub enum ViewJsonError {
    /// It is not JSON, or not of this form.
    #[error("the view is not the JSON that was expected")]
    Json(#[source] serde_json::Error),
    /// An identity or a position is not 1 to 16 hexadecimal digits.
    #[error("the view's field {field} holds {found:?}, which is not a hexadecimal number of up to 16 digits")]
    Hex {
        /// Which field.
        field: &'static str,
        /// What stood there.
        found: String,
    },
    /// It is readable, but must not be acted on.
    #[error("the view is readable but not sound")]
    Unsound(#[source] ViewError),
}

/// The view as one line of JSON.
pub fn to_json(view: &View) -> String {
    let members = view.members.iter().map(|member| MemberJson {
        id: member.id.to_string(),
        name: member.name.clone(),
        zone: member.zone.clone(),
        weight: member.weight,
        tokens: member.tokens.iter().map(Position::to_string).collect(),
    });
    let json = ViewJson {
        cluster: view.cluster.to_string(),
        epoch: view.epoch.0,
        replication: view.replication,
        forms_with: view.forms_with,
        hash_fingerprint: format!("{:016x}", view.hash_fingerprint),
        members: members.collect(),
    };
    serde_json::to_string(&json).expect("a struct of strings and numbers is always JSON")
}

/// The view that `text` holds, checked by [`View::validate`].
///
/// # Errors
/// The text is no view, or one that must not be acted on.
pub fn from_json(text: &str) -> Result<View, ViewJsonError> {
    let json: ViewJson = serde_json::from_str(text).map_err(ViewJsonError::Json)?;
    let mut members = Vec::with_capacity(json.members.len());
    for member in json.members {
        let tokens: Result<Vec<Position>, ViewJsonError> =
            member.tokens.iter().map(|token| Ok(Position(hex("tokens", token)?))).collect();
        let id = NodeId(hex("id", &member.id)?);
        members.push(Member { id, name: member.name, zone: member.zone, weight: member.weight, tokens: tokens? });
    }
    let view = View {
        cluster: ClusterId(hex("cluster", &json.cluster)?),
        epoch: Epoch(json.epoch),
        replication: json.replication,
        forms_with: json.forms_with,
        hash_fingerprint: hex("hash_fingerprint", &json.hash_fingerprint)?,
        members,
    };
    view.validate().map_err(ViewJsonError::Unsound)?;
    Ok(view)
}

#[derive(Serialize, Deserialize)]
struct ViewJson {
    cluster: String,
    epoch: u64,
    replication: usize,
    forms_with: usize,
    hash_fingerprint: String,
    members: Vec<MemberJson>,
}

#[derive(Serialize, Deserialize)]
struct MemberJson {
    id: String,
    name: String,
    zone: Option<String>,
    /// Left out when it is 1, as older writers do.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    weight: u32,
    tokens: Vec<String>,
}

fn one() -> u32 {
    1
}

fn is_one(weight: &u32) -> bool {
    *weight == 1
}

fn hex(field: &'static str, text: &str) -> Result<u64, ViewJsonError> {
    // `from_str_radix` would take a leading plus sign, which nobody writes.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = if digits { u64::from_str_radix(text, 16).ok() } else { None };
    number.ok_or_else(|| ViewJsonError::Hex { field, found: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let member = |id: u64, tokens: &[u64]| Member {
            id: NodeId(id),
            name: format!("n{id}"),
            zone: (id == 2).then(|| "b".to_owned()),
            weight: 1,
            tokens: tokens.iter().map(|token| Position(*token)).collect(),
        };
        let members = vec![member(1, &[u64::MAX, 7]), member(2, &[9])];
        View { epoch: Epoch(1), members, ..View::forming(ClusterId(0xab), 2, 2, 0xfeed) }
    }

    #[test]
    fn a_view_survives_its_json() {
        assert_eq!(from_json(&to_json(&view())).expect("our own JSON is readable"), view());
    }

    #[test]
    fn a_weight_is_told_when_it_is_not_1() {
        let mut heavy = view();
        heavy.members[1].weight = 4;
        let text = to_json(&heavy);
        assert!(text.contains("\"zone\":\"b\",\"weight\":4"), "{text}");
        assert_eq!(from_json(&text).expect("our own JSON is readable"), heavy);
        let weightless = text.replace("\"weight\":4", "\"weight\":0");
        assert!(matches!(from_json(&weightless), Err(ViewJsonError::Unsound(ViewError::NoWeight(_)))));
    }

    #[test]
    fn the_form_is_the_one_that_is_documented() {
        assert_eq!(
            to_json(&view()),
            "{\"cluster\":\"00000000000000ab\",\"epoch\":1,\"replication\":2,\"forms_with\":2,\
             \"hash_fingerprint\":\"000000000000feed\",\"members\":[\
             {\"id\":\"0000000000000001\",\"name\":\"n1\",\"zone\":null,\
             \"tokens\":[\"ffffffffffffffff\",\"0000000000000007\"]},\
             {\"id\":\"0000000000000002\",\"name\":\"n2\",\"zone\":\"b\",\"tokens\":[\"0000000000000009\"]}]}"
        );
    }

    #[test]
    fn what_is_no_view_is_refused() {
        assert!(matches!(from_json("{"), Err(ViewJsonError::Json(_))));
        assert!(matches!(from_json("{\"cluster\":\"1\"}"), Err(ViewJsonError::Json(_))));
        let twice = to_json(&view()).replace("0000000000000009", "0000000000000007");
        assert!(matches!(from_json(&twice), Err(ViewJsonError::Unsound(ViewError::TokenTwice(_)))));
        let signed = to_json(&view()).replace("00000000000000ab", "+0000000000000ab");
        assert!(matches!(from_json(&signed), Err(ViewJsonError::Hex { field: "cluster", .. })));
    }
}
