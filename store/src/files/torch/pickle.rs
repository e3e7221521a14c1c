//! Follows a pickle without running it.
//!
//! A pickle is a program for a machine with a stack and a memo; the real machine imports what it is told to and calls it. This one
//! knows the same opcodes, and what it makes are *nodes* that stand for values: a name that would be imported, a call that would be
//! made, with its arguments. Nothing is imported, called or looked up.
//!
//! Every opcode takes at least a byte, and all that is kept (stack, marks, memo, parts of nodes) is counted against one
//! limit. So time and memory are bounded by the length of the program and [`MAX_CELLS`]; values may share parts and even hold themselves, for
//! nothing here follows them.

use std::collections::HashMap;
use std::ops::Range;

/// Most values that a program may keep at once, of 16 bytes and more: two hundred thousand tensors and their names.
const MAX_CELLS: usize = 1 << 22;
/// What a node counts for beside its parts.
const NODE_CELLS: usize = 4;
/// What an entry of the memo counts for.
const MEMO_CELLS: usize = 3;

const DAMAGED: &str = "its pickle is damaged";
const TOO_LARGE: &str = "its pickle is too large";
const UNKNOWN: &str = "its pickle does things that are not known here";

/// A text, as a part of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    at: u32,
    len: u32,
}

/// What may lie on the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// None, floats, bytes, large integers: nothing that names, dtypes or shapes depend on.
    Other,
    Int(i64),
    Text(Span),
    /// Index into [`Program::nodes`].
    Node(u32),
}

/// A call that would be made, and what would be done with its result.
#[derive(Debug, PartialEq)]
pub(super) struct Call {
    pub(super) callable: Value,
    pub(super) args: Value,
    /// Elements that would be appended or added.
    pub(super) elems: Vec<Value>,
    /// Items that would be set.
    pub(super) items: Vec<[Value; 2]>,
    /// State that it would be given.
    pub(super) state: Value,
}

/// A value with parts.
#[derive(Debug, PartialEq)]
pub(super) enum Node {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<[Value; 2]>),
    /// Something that would be imported: module and name.
    Global(Span, Span),
    /// Something that the program's reader is to look up by this.
    Persistent(Value),
    Call(Box<Call>),
}

/// What a program would make.
#[derive(Debug)]
pub(super) struct Program<'p> {
    bytes: &'p [u8],
    pub(super) nodes: Vec<Node>,
    pub(super) root: Value,
}

impl Program<'_> {
    pub(super) fn text(&self, value: Value) -> Option<&str> {
        match value {
            Value::Text(span) => std::str::from_utf8(self.bytes.get(range(span))?).ok(),
            _ => None,
        }
    }

    pub(super) fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(at) => self.nodes.get(at as usize),
            _ => None,
        }
    }

    pub(super) fn tuple(&self, value: Value) -> Option<&[Value]> {
        match self.node(value) {
            Some(Node::Tuple(parts)) => Some(parts),
            _ => None,
        }
    }

    /// Module and name of what would be imported.
    pub(super) fn global(&self, value: Value) -> Option<(&str, &str)> {
        match self.node(value) {
            Some(&Node::Global(module, name)) => {
                Some((self.text(Value::Text(module))?, self.text(Value::Text(name))?))
            }
            _ => None,
        }
    }
}

fn range(span: Span) -> Range<usize> {
    span.at as usize..span.at as usize + span.len as usize
}

/// Follows the program `bytes`, of less than 4 GiB, to its end.
///
/// # Errors
/// Why it cannot be followed, in words.
pub(super) fn follow(bytes: &[u8]) -> Result<Program<'_>, &'static str> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        nodes: Vec::new(),
        cells: 0,
    };
    let root = machine.run()?;
    Ok(Program {
        bytes,
        nodes: machine.nodes,
        root,
    })
}

struct Machine<'p> {
    bytes: &'p [u8],
    at: usize,
    stack: Vec<Value>,
    /// Where on the stack a mark lies: below the value of this index.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    nodes: Vec<Node>,
    /// What nodes and memo count for.
    cells: usize,
}

type Step<T> = Result<T, &'static str>;

impl Machine<'_> {
    fn run(&mut self) -> Step<Value> {
        loop {
            let opcode = self.u8()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
            if self.cells + self.stack.len() + self.marks.len() > MAX_CELLS {
                return Err(TOO_LARGE);
            }
        }
    }

    fn step(&mut self, opcode: u8) -> Step<()> {
        match opcode {
            // What stands around the program, and in which pieces it was written.
            0x80 => drop(self.number(1)?),
            0x95 => drop(self.number(8)?),
            // The stack.
            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_marked()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            // The memo.
            b'p' | b'q' | b'r' | 0x94 => {
                let key = match opcode {
                    b'p' => self.decimal()?,
                    b'q' => self.number(1)?,
                    b'r' => self.number(4)?,
                    _ => self.memo.len() as u64,
                };
                let top = self.top()?;
                if self.memo.insert(key, top).is_none() {
                    self.cells += MEMO_CELLS;
                }
            }
            b'g' | b'h' | b'j' => {
                let key = match opcode {
                    b'g' => self.decimal()?,
                    b'h' => self.number(1)?,
                    _ => self.number(4)?,
                };
                let known = *self.memo.get(&key).ok_or(DAMAGED)?;
                self.stack.push(known);
            }
            // Values without parts.
            b'N' | 0x88 | 0x89 => self.stack.push(Value::Other),
            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            b'J' => {
                let number = self.number(4)?;
                let signed = i32::from_le_bytes(u32::try_from(number).map_err(|_| DAMAGED)?.to_le_bytes());
                self.stack.push(Value::Int(signed.into()));
            }
            b'I' => {
                let line = self.line()?;
                self.stack.push(
                    line_text(self.bytes, line)
                        .and_then(|t| t.parse().ok())
                        .map_or(Value::Other, Value::Int),
                );
            }
            b'F' | b'L' | b'S' | b'V' => {
                self.line()?;
                self.stack.push(Value::Other);
            }
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Other);
            }
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'U' | 0x8c => self.text(1)?,
            b'T' | b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            b'C' => self.skipped(1)?,
            b'B' => self.skipped(4)?,
            0x8e | 0x96 => self.skipped(8)?,
            // Values with parts.
            b')' => self.node(Node::Tuple(Vec::new()))?,
            b']' | 0x8f => self.node(Node::List(Vec::new()))?,
            b'}' => self.node(Node::Dict(Vec::new()))?,
            0x85..=0x87 => {
                let first = self.below(usize::from(opcode - 0x84))?;
                let parts = self.stack.split_off(first);
                self.node(Node::Tuple(parts))?;
            }
            b't' => {
                let parts = self.pop_marked()?;
                self.node(Node::Tuple(parts))?;
            }
            b'l' | 0x91 => {
                let parts = self.pop_marked()?;
                self.node(Node::List(parts))?;
            }
            b'd' => {
                let items = in_pairs(&self.pop_marked()?)?;
                self.node(Node::Dict(items))?;
            }
            b'a' => {
                let elem = self.pop()?;
                self.append(&[elem])?;
            }
            b'e' | 0x90 => {
                let elems = self.pop_marked()?;
                self.append(&elems)?;
            }
            b's' => {
                let first = self.below(2)?;
                let item = self.stack.split_off(first);
                self.set(&item)?;
            }
            b'u' => {
                let items = self.pop_marked()?;
                self.set(&items)?;
            }
            // What would be imported, called and looked up.
            b'c' => self.global()?,
            0x93 => {
                let first = self.below(2)?;
                let names = self.stack.split_off(first);
                let [Value::Text(module), Value::Text(name)] = names[..] else {
                    return Err(UNKNOWN);
                };
                self.node(Node::Global(module, name))?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.node(Node::Persistent(id))?;
            }
            b'R' | 0x81 => {
                let first = self.below(2)?;
                let (callable, args) = (self.stack[first], self.stack[first + 1]);
                self.stack.truncate(first);
                self.call(callable, args)?;
            }
            // Named arguments are another part of the arguments.
            0x92 => {
                let first = self.below(3)?;
                let callable = self.stack[first];
                let args = self.stack.split_off(first + 1);
                self.stack.truncate(first);
                let args = self.part(Node::Tuple(args))?;
                self.call(callable, args)?;
            }
            b'o' => {
                let parts = self.pop_marked()?;
                let (&callable, args) = parts.split_first().ok_or(DAMAGED)?;
                let args = self.part(Node::Tuple(args.to_vec()))?;
                self.call(callable, args)?;
            }
            b'i' => {
                let callable = self.import()?;
                let args = self.pop_marked()?;
                let args = self.part(Node::Tuple(args))?;
                self.call(callable, args)?;
            }
            b'b' => {
                let given = self.pop()?;
                if let Some(Node::Call(call)) = self.top_node()? {
                    call.state = given;
                }
            }
            // Registered extensions, buffers from outside, ids as lines; and what no version of the machine knows.
            _ => return Err(UNKNOWN),
        }
        Ok(())
    }

    /// Reads `len` bytes of the program.
    fn take(&mut self, len: usize) -> Step<Span> {
        let end = self
            .at
            .checked_add(len)
            .filter(|&end| end <= self.bytes.len())
            .ok_or(DAMAGED)?;
        let span = Span {
            at: u32::try_from(self.at).map_err(|_| TOO_LARGE)?,
            len: u32::try_from(len).map_err(|_| TOO_LARGE)?,
        };
        self.at = end;
        Ok(span)
    }

    fn u8(&mut self) -> Step<u8> {
        let byte = *self.bytes.get(self.at).ok_or(DAMAGED)?;
        self.at += 1;
        Ok(byte)
    }

    /// An unsigned number of `len` bytes, at most 8.
    fn number(&mut self, len: usize) -> Step<u64> {
        let span = self.take(len)?;
        let bytes = self.bytes[range(span)].iter().rev();
        Ok(bytes.fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// What is left of a line, without its end.
    fn line(&mut self) -> Step<Span> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&byte| byte == b'\n').ok_or(DAMAGED)?;
        let span = self.take(len)?;
        self.at += 1;
        Ok(span)
    }

    /// A line that is a number in decimal.
    fn decimal(&mut self) -> Step<u64> {
        let line = self.line()?;
        line_text(self.bytes, line)
            .and_then(|t| t.parse().ok())
            .ok_or(DAMAGED)
    }

    fn int(&mut self, len: usize) -> Step<()> {
        let number = self.number(len)?;
        self.stack
            .push(i64::try_from(number).map_or(Value::Other, Value::Int));
        Ok(())
    }

    /// A two's-complement integer behind its length of `prefix` bytes.
    fn long(&mut self, prefix: usize) -> Step<()> {
        let len = usize::try_from(self.number(prefix)?).map_err(|_| DAMAGED)?;
        let span = self.take(len)?;
        let bytes = &self.bytes[range(span)];
        let fill = if bytes.last().is_some_and(|&top| top > 127) {
            255
        } else {
            0
        };
        self.stack.push(match len {
            0..=8 => Value::Int(i64::from_le_bytes(std::array::from_fn(|i| {
                *bytes.get(i).unwrap_or(&fill)
            }))),
            _ => Value::Other,
        });
        Ok(())
    }

    /// A text behind its length of `prefix` bytes.
    fn text(&mut self, prefix: usize) -> Step<()> {
        let len = usize::try_from(self.number(prefix)?).map_err(|_| DAMAGED)?;
        let span = self.take(len)?;
        self.stack.push(Value::Text(span));
        Ok(())
    }

    /// Bytes behind their length of `prefix` bytes.
    fn skipped(&mut self, prefix: usize) -> Step<()> {
        self.text(prefix)?;
        self.pop()?;
        self.stack.push(Value::Other);
        Ok(())
    }

    /// The lowest value on the stack above the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    /// Where the topmost `count` values begin.
    fn below(&self, count: usize) -> Step<usize> {
        self.stack
            .len()
            .checked_sub(count)
            .filter(|&first| first >= self.floor())
            .ok_or(DAMAGED)
    }

    fn top(&self) -> Step<Value> {
        Ok(self.stack[self.below(1)?])
    }

    fn pop(&mut self) -> Step<Value> {
        let first = self.below(1)?;
        let top = self.stack[first];
        self.stack.truncate(first);
        Ok(top)
    }

    /// All values above the last mark, which goes too.
    fn pop_marked(&mut self) -> Step<Vec<Value>> {
        let mark = self.marks.pop().ok_or(DAMAGED)?;
        Ok(self.stack.split_off(mark))
    }

    /// Keeps a node.
    fn part(&mut self, node: Node) -> Step<Value> {
        self.cells += NODE_CELLS
            + match &node {
                Node::Tuple(parts) | Node::List(parts) => parts.len(),
                Node::Dict(items) => 2 * items.len(),
                Node::Global(..) | Node::Persistent(_) => 0,
                Node::Call(_) => 2 * NODE_CELLS,
            };
        let at = u32::try_from(self.nodes.len()).map_err(|_| TOO_LARGE)?;
        self.nodes.push(node);
        Ok(Value::Node(at))
    }

    /// Keeps a node and puts it on the stack.
    fn node(&mut self, node: Node) -> Step<()> {
        let value = self.part(node)?;
        self.stack.push(value);
        Ok(())
    }

    fn call(&mut self, callable: Value, args: Value) -> Step<()> {
        self.node(Node::Call(Box::new(Call {
            callable,
            args,
            elems: Vec::new(),
            items: Vec::new(),
            state: Value::Other,
        })))
    }

    fn import(&mut self) -> Step<Value> {
        let (module, name) = (self.line()?, self.line()?);
        self.part(Node::Global(module, name))
    }

    fn global(&mut self) -> Step<()> {
        let global = self.import()?;
        self.stack.push(global);
        Ok(())
    }

    fn top_node(&mut self) -> Step<Option<&mut Node>> {
        let top = self.top()?;
        Ok(match top {
            Value::Node(at) => self.nodes.get_mut(at as usize),
            _ => None,
        })
    }

    fn append(&mut self, elems: &[Value]) -> Step<()> {
        match self.top_node()? {
            Some(Node::List(list)) => list.extend_from_slice(elems),
            Some(Node::Call(call)) => call.elems.extend_from_slice(elems),
            _ => return Err(UNKNOWN),
        }
        self.cells += elems.len();
        Ok(())
    }

    fn set(&mut self, items: &[Value]) -> Step<()> {
        let pairs = in_pairs(items)?;
        match self.top_node()? {
            Some(Node::Dict(dict)) => dict.extend(pairs),
            Some(Node::Call(call)) => call.items.extend(pairs),
            _ => return Err(UNKNOWN),
        }
        self.cells += items.len();
        Ok(())
    }
}

fn in_pairs(values: &[Value]) -> Step<Vec<[Value; 2]>> {
    let (pairs, rest) = values.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs.to_vec())
    } else {
        Err(DAMAGED)
    }
}

fn line_text(bytes: &[u8], line: Span) -> Option<&str> {
    std::str::from_utf8(&bytes[range(line)]).ok()
}
