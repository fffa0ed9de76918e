//! The one error type of the runtime.
//!
//! Comes in: what was expected and what was found, from every file of this crate. Goes out: a [`RuntimeError`]
//! that names the tensor or scalar, the dim, both values and the remedy. What holds: the classes never
//! mix. What the caller gave is [`ErrorKind::Data`], what this host cannot do is [`ErrorKind::Unsupported`], what a
//! kernel did wrong on a device is [`ErrorKind::Fault`], and a broken promise of the compiler or of this crate is
//! [`ErrorKind::Internal`]. Deliberately not here: diagnostics with source spans (they belong to the compiler) and
//! recovery.

use std::fmt;

/// What the caller got wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DataFault {
    /// A name that the kernel does not have, or one bound twice.
    Name,
    /// Something the kernel needs was not bound.
    Missing,
    /// Another storage type, or a parameter of another type.
    DType,
    /// Another number of dims.
    Rank,
    /// A size: two tensors disagree, a fixed dim differs, a length is out of bounds, a count overflows.
    Size,
    /// A view that leaves its slice or aliases itself.
    View,
    /// Two bound tensors share memory that is written.
    Overlap,
    /// A parameter or setting out of its range.
    Value,
    /// A launch condition of the kernel is false.
    Condition,
    /// A promised fact (`sorted`, `monotone`, 0/1) does not hold.
    Fact,
    /// An index would leave its tensor.
    Index,
    /// A divisor may be zero.
    Divisor,
    /// A file that is truncated, altered or of another format.
    File,
}

/// Which kind an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller's data or settings: mend the call.
    Data(DataFault),
    /// This host cannot do it: another host, target or setting is needed.
    Unsupported,
    /// A kernel did on a device what the machine refuses or leaves undefined. Outputs are as they were.
    Fault,
    /// Our bug: the artifact or the runtime broke an invariant.
    Internal,
}

/// Why a tensor was refused, or a kernel was not loaded or not run. Nothing was written to the caller's memory when it
/// is returned; nothing was launched either, but for [`ErrorKind::Fault`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RuntimeError {
    kind: ErrorKind,
    message: String,
}

impl RuntimeError {
    /// Which kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The caller's mistake; `message` names what, expected, found, remedy.
    pub(crate) fn data(fault: DataFault, message: impl fmt::Display) -> RuntimeError {
        RuntimeError { kind: ErrorKind::Data(fault), message: message.to_string() }
    }

    /// The same error, about this thing.
    pub(crate) fn within(self, what: &str) -> RuntimeError {
        RuntimeError { message: format!("{what}: {}", self.message), ..self }
    }

    /// Something this host cannot do, with the nearest thing that works.
    pub(crate) fn unsupported(message: impl fmt::Display) -> RuntimeError {
        RuntimeError { kind: ErrorKind::Unsupported, message: message.to_string() }
    }

    /// Something that failed on a device, a launch mostly; `detail` is what the device says.
    pub(crate) fn fault(what: &str, device: &str, detail: impl fmt::Display) -> RuntimeError {
        let message = format!(
            "{what} failed on {device}: {detail}\nno output was written; this is a bug in attnc unless the \
             kernel comes from elsewhere, please report it"
        );
        RuntimeError { kind: ErrorKind::Fault, message }
    }

    /// A broken invariant, with the stage that found it.
    pub(crate) fn internal(stage: &str, invariant: impl fmt::Display) -> RuntimeError {
        let message =
            format!("internal error in {stage}: {invariant}; this is a bug in attnc, please report it");
        RuntimeError { kind: ErrorKind::Internal, message }
    }
}

/// The name among `known` nearest to `name`, if one is near enough to be a slip of the fingers.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    known.map(|k| (distance(name, k), k)).filter(|(d, _)| *d <= limit).min().map(|(_, k)| k)
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let replace = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name_is_found_and_far_ones_are_not() {
        let known = ["q", "k", "sink", "window"];
        assert_eq!(nearest("sinks", known.into_iter()), Some("sink"));
        assert_eq!(nearest("windwo", known.into_iter()), Some("window"));
        assert_eq!(nearest("temperature", known.into_iter()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn kinds_stay_apart() {
        assert_eq!(RuntimeError::data(DataFault::Rank, "x").kind(), ErrorKind::Data(DataFault::Rank),);
        let internal = RuntimeError::internal("bind", "y");
        assert_eq!(internal.kind(), ErrorKind::Internal);
        assert!(internal.to_string().contains("bug in attnc"));
    }
}
