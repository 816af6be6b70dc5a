//! The JSON of a [`View`]: what stands under the key `everring/view` in discovery, and in nodes' view caches.
//!
//! Identities and positions are 16 hexadecimal digits in a string, because JSON numbers lose bits beyond 2^53 in many
//! readers. Unknown fields are ignored, so that an older reader survives a newer writer.

use std::collections::{BTreeMap, BTreeSet};

use membership::{Change, ClusterId, Epoch, Member, NodeId, PROTOCOL_UNTOLD, Pending, Position, View, ViewError};
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
        tokens: token_texts(&member.tokens),
    });
    let json = ViewJson {
        cluster: view.cluster.to_string(),
        epoch: view.epoch.0,
        replication: view.replication,
        forms_with: view.forms_with,
        hash_fingerprint: format!("{:016x}", view.hash_fingerprint),
        protocol: view.protocol,
        members: members.collect(),
        pending: view.pending.iter().map(pending_json).collect(),
        arc_epochs: view.arc_epochs.iter().map(|(high, epoch)| (high.to_string(), epoch.0)).collect(),
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
        let tokens = read_tokens("tokens", &member.tokens)?;
        let id = NodeId(hex("id", &member.id)?);
        members.push(Member { id, name: member.name, zone: member.zone, weight: member.weight, tokens });
    }
    let view = View {
        cluster: ClusterId(hex("cluster", &json.cluster)?),
        epoch: Epoch(json.epoch),
        replication: json.replication,
        forms_with: json.forms_with,
        hash_fingerprint: hex("hash_fingerprint", &json.hash_fingerprint)?,
        protocol: json.protocol,
        members,
        pending: json.pending.into_iter().map(read_pending).collect::<Result<_, _>>()?,
        arc_epochs: read_arc_epochs(&json.arc_epochs)?,
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
    /// Left out by those who spoke the one that is taken for it.
    #[serde(default = "untold")]
    protocol: u16,
    members: Vec<MemberJson>,
    /// Left out while nothing changes, and so also by those who knew no changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pending: Vec<PendingJson>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    arc_epochs: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
struct PendingJson {
    id: u64,
    #[serde(flatten)]
    change: ChangeJson,
    copied: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
enum ChangeJson {
    Join {
        node: String,
    },
    Leave {
        nodes: Vec<String>,
        lost: LostJson,
        /// Left out when nobody's tokens move.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        moves: BTreeMap<String, Vec<String>>,
    },
    Replace {
        gone: String,
        by: String,
    },
}

/// Which of those who leave are given up: all or none, or some, by their names.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum LostJson {
    All(bool),
    Some(Vec<String>),
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

fn pending_json(pending: &Pending) -> PendingJson {
    let texts = |nodes: &BTreeSet<NodeId>| nodes.iter().map(NodeId::to_string).collect();
    let change = match &pending.change {
        Change::Join { node } => ChangeJson::Join { node: node.to_string() },
        Change::Leave { nodes, lost, moves } => {
            let moves = moves.iter().map(|(node, tokens)| (node.to_string(), token_texts(tokens))).collect();
            let lost = match lost {
                lost if lost.is_empty() => LostJson::All(false),
                lost if lost == nodes => LostJson::All(true),
                lost => LostJson::Some(texts(lost)),
            };
            ChangeJson::Leave { nodes: texts(nodes), lost, moves }
        }
        Change::Replace { gone, by } => ChangeJson::Replace { gone: gone.to_string(), by: by.to_string() },
    };
    PendingJson { id: pending.id.0, change, copied: texts(&pending.copied) }
}

fn read_pending(json: PendingJson) -> Result<Pending, ViewJsonError> {
    let node = |field, text: &str| hex(field, text).map(NodeId);
    let change = match json.change {
        ChangeJson::Join { node: joins } => Change::Join { node: node("node", &joins)? },
        ChangeJson::Leave { nodes, lost, moves } => {
            let moves = moves.iter().map(|(id, tokens)| Ok((node("moves", id)?, read_tokens("moves", tokens)?)));
            let moves = moves.collect::<Result<_, _>>()?;
            let nodes = read_nodes("nodes", &nodes)?;
            let lost = match lost {
                LostJson::All(false) => BTreeSet::new(),
                LostJson::All(true) => nodes.clone(),
                LostJson::Some(some) => read_nodes("lost", &some)?,
            };
            Change::Leave { nodes, lost, moves }
        }
        ChangeJson::Replace { gone, by } => Change::Replace { gone: node("gone", &gone)?, by: node("by", &by)? },
    };
    Ok(Pending { id: Epoch(json.id), change, copied: read_nodes("copied", &json.copied)? })
}

fn read_nodes(field: &'static str, texts: &[String]) -> Result<BTreeSet<NodeId>, ViewJsonError> {
    texts.iter().map(|text| hex(field, text).map(NodeId)).collect()
}

fn token_texts(tokens: &[Position]) -> Vec<String> {
    tokens.iter().map(Position::to_string).collect()
}

fn read_tokens(field: &'static str, texts: &[String]) -> Result<Vec<Position>, ViewJsonError> {
    texts.iter().map(|text| hex(field, text).map(Position)).collect()
}

fn read_arc_epochs(json: &BTreeMap<String, u64>) -> Result<BTreeMap<Position, Epoch>, ViewJsonError> {
    json.iter().map(|(high, epoch)| Ok((Position(hex("arc_epochs", high)?), Epoch(*epoch)))).collect()
}

fn untold() -> u16 {
    PROTOCOL_UNTOLD
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
             \"hash_fingerprint\":\"000000000000feed\",\"protocol\":5,\"members\":[\
             {\"id\":\"0000000000000001\",\"name\":\"n1\",\"zone\":null,\
             \"tokens\":[\"ffffffffffffffff\",\"0000000000000007\"]},\
             {\"id\":\"0000000000000002\",\"name\":\"n2\",\"zone\":\"b\",\"tokens\":[\"0000000000000009\"]}]}"
        );
    }

    #[test]
    fn a_view_of_before_is_of_the_protocol_that_was_spoken_then() {
        let raised = View { protocol: 6, ..view() };
        let text = to_json(&raised);
        assert_eq!(from_json(&text).expect("our own JSON is readable"), raised);
        let before = from_json(&text.replace("\"protocol\":6,", "")).expect("a view of before is readable");
        assert_eq!(before, View { protocol: PROTOCOL_UNTOLD, ..raised });
    }

    #[test]
    fn some_of_those_who_leave_may_be_given_up() {
        let mut leaving = view();
        leaving.epoch = Epoch(2);
        leaving.replication = 1;
        leaving.members.push(Member {
            id: NodeId(3),
            name: "n3".to_owned(),
            tokens: vec![Position(11)],
            ..leaving.members[0].clone()
        });
        let nodes = BTreeSet::from([NodeId(1), NodeId(2)]);
        let change = |lost: &[u64]| {
            let lost = lost.iter().map(|id| NodeId(*id)).collect();
            let change = Change::Leave { nodes: nodes.clone(), lost, moves: BTreeMap::new() };
            View { pending: vec![Pending { id: Epoch(2), change, copied: BTreeSet::new() }], ..leaving.clone() }
        };
        for (lost, told) in
            [(&[][..], "\"lost\":false"), (&[1, 2], "\"lost\":true"), (&[2], "\"lost\":[\"0000000000000002\"]")]
        {
            let text = to_json(&change(lost));
            assert!(text.contains(told), "{text}");
            assert_eq!(from_json(&text).expect("our own JSON is readable"), change(lost));
        }
        let stranger =
            to_json(&change(&[2])).replace("\"lost\":[\"0000000000000002\"]", "\"lost\":[\"0000000000000003\"]");
        assert!(matches!(from_json(&stranger), Err(ViewJsonError::Unsound(ViewError::ChangeUnsound(Epoch(2))))));
    }

    #[test]
    fn changes_under_way_survive_it_too() {
        let member = |id: u64, token: u64| Member {
            id: NodeId(id),
            name: format!("n{id}"),
            zone: None,
            weight: 1,
            tokens: vec![Position(token)],
        };
        let members = (1..=12).map(|id| member(id, id * 100)).collect();
        let formed = View { epoch: Epoch(1), members, ..View::forming(ClusterId(1), 2, 12, 0) };
        let joining = formed.begin_join(member(20, 150)).expect("it may join");
        let heir = Member { name: "n5".to_owned(), ..member(21, 1) };
        let replacing = joining.begin_replace(NodeId(5), heir).expect("its arcs are others");
        let view = replacing.begin_leave_moving(BTreeSet::from([NodeId(9)]), true, BTreeMap::new());
        let view = view.expect("its arcs are others");
        assert_eq!(from_json(&to_json(&view)).expect("our own JSON is readable"), view);
        let text = to_json(&joining);
        let end = "\"pending\":[{\"id\":2,\"change\":\"join\",\"node\":\"0000000000000014\",\"copied\":[]}],\
                   \"arc_epochs\":{\"0000000000000064\":2,\"0000000000000096\":2,\"00000000000000c8\":2}}";
        assert!(text.ends_with(end), "{text}");
        let moving = formed.begin_leave_moving(
            BTreeSet::from([NodeId(3)]),
            false,
            BTreeMap::from([(NodeId(2), vec![Position(250), Position(7)])]),
        );
        let moving = moving.expect("it may leave");
        let told = to_json(&moving);
        assert_eq!(from_json(&told).expect("our own JSON is readable"), moving);
        let moves = "\"lost\":false,\"moves\":{\"0000000000000002\":[\"00000000000000fa\",\"0000000000000007\"]}";
        assert!(told.contains(moves), "{told}");
        let twice = told.replace("00000000000000fa", "0000000000000190");
        assert!(matches!(from_json(&twice), Err(ViewJsonError::Unsound(ViewError::TokenTwice(_)))));
        let stranger = told.replace("\"moves\":{\"0000000000000002\"", "\"moves\":{\"0000000000000022\"");
        assert!(matches!(from_json(&stranger), Err(ViewJsonError::Unsound(ViewError::ChangeUnsound(_)))));
        let absurd = text.replace("\"id\":2", "\"id\":99");
        assert!(matches!(from_json(&absurd), Err(ViewJsonError::Unsound(ViewError::ChangeUnsound(Epoch(99))))));
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
