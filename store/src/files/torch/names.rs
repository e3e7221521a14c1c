//! The name of a storage: the way to the first tensor on it, through the dictionaries and lists of its file.
//!
//! ```text
//! {"model": {"layers.0.weight": tensor}, "optimizer": {"state": {3: {"exp_avg": tensor}}}}
//!     model.layers.0.weight                 optimizer.state.3.exp_avg
//! ```

use super::pickle::{Node, Program, Value};
use super::storages::Told;

/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 512;
/// Most bytes of all names of a file.
const MAX_NAMES_BYTES: usize = 64 << 20;
/// Most nested values.
const MAX_DEPTH: usize = 64;
/// Parts of the state of a module that say nothing of its tensors.
const MODULE_PARTS: &[&str] = &["_parameters", "_buffers", "_modules"];

/// A value on the way, and which of its parts comes next.
struct Frame {
    node: u32,
    next: usize,
    /// How much of the name leads here.
    name_bytes: usize,
}

/// Where a part stands in its whole.
enum Label {
    /// The whole stands for it.
    None,
    Index(usize),
    Key(Value),
}

/// Names the storages that the value of `program` leads to.
///
/// Each value is met once, whatever else holds it: so the way is no longer than the program.
pub(super) fn name(program: &Program<'_>, told: &mut Told) {
    let mut met = vec![false; program.nodes.len()];
    let mut name = String::new();
    let mut total = 0;
    let mut frames = Vec::new();
    enter(program.root, &name, told, &mut met, &mut total, &mut frames);
    while let Some(frame) = frames.last_mut() {
        name.truncate(frame.name_bytes);
        let Some((label, value)) = part(program, &program.nodes[frame.node as usize], frame.next) else {
            frames.pop();
            continue;
        };
        let position = frame.next;
        frame.next += 1;
        if !matches!(value, Value::Node(_)) || frames.len() == MAX_DEPTH {
            continue;
        }
        let index = position.to_string();
        let label = match label {
            Label::None => "",
            Label::Index(at) => &at.to_string(),
            Label::Key(Value::Int(key)) => &key.to_string(),
            Label::Key(key) => match program.text(key) {
                Some(text) if MODULE_PARTS.contains(&text) => "",
                Some(text) => text,
                None => &index,
            },
        };
        if !label.is_empty() {
            if name.len() + 1 + label.len() > MAX_NAME_BYTES {
                continue;
            }
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(label);
        }
        enter(value, &name, told, &mut met, &mut total, &mut frames);
    }
}

/// Names the storage that `value` is or stands on, or looks into its parts next.
fn enter(
    value: Value,
    name: &str,
    told: &mut Told,
    met: &mut [bool],
    total: &mut usize,
    frames: &mut Vec<Frame>,
) {
    let Value::Node(node) = value else {
        return;
    };
    if std::mem::replace(&mut met[node as usize], true) {
        return;
    }
    let Some(storage) = told.of_node(node) else {
        frames.push(Frame {
            node,
            next: 0,
            name_bytes: name.len(),
        });
        return;
    };
    if storage.name.is_none() && !name.is_empty() && *total + name.len() <= MAX_NAMES_BYTES {
        *total += name.len();
        storage.name = Some(name.to_owned());
    }
}

/// Part number `at` of a value; `None` behind the last.
fn part(program: &Program<'_>, node: &Node, at: usize) -> Option<(Label, Value)> {
    let item = |&[key, value]: &[Value; 2]| (Label::Key(key), value);
    match node {
        Node::Tuple(parts) | Node::List(parts) => parts.get(at).map(|&value| (Label::Index(at), value)),
        Node::Dict(items) => items.get(at).map(item),
        Node::Global(..) | Node::Persistent(_) => None,
        // Its arguments, its state, its items, its elements. What a call does to its first argument is mostly a shell around it.
        Node::Call(call) => {
            let args = program.tuple(call.args).unwrap_or_default();
            if let Some(&arg) = args.get(at) {
                return Some((if at == 0 { Label::None } else { Label::Index(at) }, arg));
            }
            let Some(at) = (at - args.len()).checked_sub(1) else {
                return Some((Label::None, call.state));
            };
            let elem = |at: usize| call.elems.get(at).map(|&value| (Label::Index(at), value));
            let items = call.items.get(at).map(item);
            items.or_else(|| elem(at.checked_sub(call.items.len())?))
        }
    }
}
