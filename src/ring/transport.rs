//! How keys and values travel from rank to rank.
//!
//! A [`Transport`] is one rank's end of the ring. What holds: messages between two neighbours arrive whole and in
//! order; `send_next` may return before the message has arrived, so that a step is computed while the next one's keys
//! travel. [`Local`] connects ranks that are threads of one process. MPI or NCCL are other implementations: bytes go
//! out, bytes come in, nothing else is asked of them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::error::{Error, ErrorKind};

/// One rank's end of a ring.
pub trait Transport: Send {
    /// This rank, in 0..ranks.
    fn rank(&self) -> usize;

    /// Ranks in all, at least 1.
    fn ranks(&self) -> usize;

    /// Hands a message to rank `(rank + 1) % ranks`.
    ///
    /// # Errors
    /// The neighbour is gone.
    fn send_next(&mut self, message: Vec<u8>) -> Result<(), Error>;

    /// Takes the next message of rank `(rank + ranks - 1) % ranks`; waits for it.
    ///
    /// # Errors
    /// The neighbour is gone, or does not answer.
    fn receive_previous(&mut self) -> Result<Vec<u8>, Error>;
}

/// How long a rank waits for its neighbour before it gives up.
const PATIENCE: Duration = Duration::from_secs(600);

/// Ranks that are threads of one process, connected by channels.
#[derive(Debug)]
pub struct Local {
    rank: usize,
    ranks: usize,
    next: Sender<Vec<u8>>,
    previous: Receiver<Vec<u8>>,
}

impl Local {
    /// The ends of a ring of this many ranks (at least 1), in order.
    pub fn ring(ranks: usize) -> Vec<Local> {
        let ranks = ranks.max(1);
        let (senders, mut receivers): (Vec<_>, Vec<_>) = (0..ranks).map(|_| channel()).unzip();
        // Rank r receives what rank r - 1 sends: its own channel is written by its predecessor.
        let mut ends = Vec::new();
        for (rank, previous) in receivers.drain(..).enumerate() {
            let next = senders[(rank + 1) % ranks].clone();
            ends.push(Local { rank, ranks, next, previous });
        }
        ends
    }
}

impl Transport for Local {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn send_next(&mut self, message: Vec<u8>) -> Result<(), Error> {
        self.next.send(message).map_err(|_| gone((self.rank + 1) % self.ranks))
    }

    fn receive_previous(&mut self) -> Result<Vec<u8>, Error> {
        let previous = (self.rank + self.ranks - 1) % self.ranks;
        self.previous.recv_timeout(PATIENCE).map_err(|_| gone(previous))
    }
}

fn gone(rank: usize) -> Error {
    Error::new(ErrorKind::Data, format!("rank {rank} of the ring has stopped; its own error says why"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_go_round() {
        let mut ends = Local::ring(3);
        for end in &mut ends {
            let rank = end.rank() as u8;
            end.send_next(vec![rank]).unwrap();
        }
        let got: Vec<u8> = ends.iter_mut().map(|e| e.receive_previous().unwrap()[0]).collect();
        assert_eq!(got, [2, 0, 1]);
    }

    #[test]
    fn a_lost_neighbour_is_named() {
        let mut ends = Local::ring(2);
        let mut first = ends.remove(0);
        drop(ends);
        let said = first.send_next(vec![]).unwrap_err().to_string();
        assert!(said.contains("rank 1"), "{said}");
    }
}
