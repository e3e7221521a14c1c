//! Which requests fail, and how.

use object_store::Error;

/// A write that is late by so many requests arrives only when it is let in.
pub(crate) const UNTIL_LET_IN: usize = usize::MAX;

/// How a request fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not carried out; the caller cannot know.
    LostRequest,
    /// It is carried out; the caller cannot know.
    LostResponse,
    /// A write is carried out only before the so many-th request after it, or when it is let in; the caller cannot know.
    Late(usize),
    /// Of an object, or of a listing, the first half comes; of a listing it is told that something is lacking.
    Truncated,
    /// A create is not carried out, and answered with 409, as if something were there; without one of the words that servers have for that.
    Conflict,
    /// The same with 412.
    Precondition,
    /// It is carried out, and answered with 500.
    Internal,
    /// It is not carried out, and answered with 503.
    Busy,
    /// It is refused, and says so.
    Refused,
    /// It is carried out, and said to be refused.
    FalseRefusal,
}

/// What a fault does to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It is never carried out.
    Never,
    /// It is carried out.
    Done,
    /// It is carried out after so many further requests.
    Late(usize),
}

/// What is asked of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// An object that must not be there yet.
    Create,
    /// Anything else that changes something.
    Write,
    /// An object, or a part of one.
    Get,
    /// What is known of an object.
    Head,
    /// A listing.
    List,
}

impl Fault {
    /// Whether `request` can fail so.
    pub(super) fn concerns(self, request: Request) -> bool {
        match self {
            Self::Late(_) => matches!(request, Request::Create | Request::Write),
            Self::Truncated => matches!(request, Request::Get | Request::List),
            Self::Conflict | Self::Precondition => request == Request::Create,
            _ => true,
        }
    }

    /// What becomes of a write.
    pub(super) fn effect(self) -> Effect {
        match self {
            Self::LostResponse | Self::Internal | Self::FalseRefusal => Effect::Done,
            Self::Late(requests) => Effect::Late(requests),
            _ => Effect::Never,
        }
    }

    /// What the caller is told, as the client puts it.
    pub(super) fn error(self) -> Error {
        let path = || "planned".to_owned();
        let status = |text: &str| format!("Server returned non-2xx status code: {text}").into();
        match self {
            Self::Refused | Self::FalseRefusal => Error::PermissionDenied {
                path: path(),
                source: "refused by plan".into(),
            },
            Self::Conflict => Error::AlreadyExists {
                path: path(),
                source: status("409 Conflict: "),
            },
            Self::Precondition => Error::Precondition {
                path: path(),
                source: status("412 Precondition Failed: "),
            },
            Self::Internal => Error::Generic {
                store: "faults",
                source: status("500 Internal Server Error: <Error><Code>InternalError</Code></Error>"),
            },
            Self::Busy => Error::Generic {
                store: "faults",
                source: status("503 Service Unavailable: <Error><Code>SlowDown</Code></Error>"),
            },
            _ => Error::Generic {
                store: "faults",
                source: "connection reset by plan".into(),
            },
        }
    }
}

/// Which requests fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) fault: Fault,
    /// First request that fails, counted from when the plan was made.
    pub(crate) from: usize,
    /// How many fail from there on, those among them that cannot fail so included.
    pub(crate) len: usize,
}

/// What the server pretends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// A conditional create overwrites.
    CreateOverwrites,
    /// A conditional create says that it won, and changes nothing.
    CreatePretends,
    /// Only creates that come in at the same time all win.
    RacersWin,
    /// A range is answered with the start of the object.
    RangesAreIgnored,
    /// Listings are empty.
    ListsNothing,
    /// Listings begin with the last key.
    ListsBackwards,
}
