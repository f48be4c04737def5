//! Pieces that go in one frame.

use super::{FRAME, PIECE_HEAD};
use crate::proto::{Coding, Piece, StreamFrame};

/// What waits to be sent.
#[derive(Default)]
pub(super) struct Batch {
    pieces: Vec<Piece>,
    codings: Vec<Coding>,
    weight: usize,
    plain: u64,
}

impl Batch {
    /// Whether a piece must wait for the next frame.
    pub(super) fn is_too_full_for(&self, piece: &Piece) -> bool {
        self.weight + weight(piece) > FRAME + PIECE_HEAD
    }

    /// Whether it is to be sent now.
    pub(super) fn is_full(&self) -> bool {
        self.weight >= FRAME
    }

    /// Adds a piece, compressed or not.
    pub(super) fn push(&mut self, piece: Piece, coding: Option<Coding>) {
        self.weight += weight(&piece);
        self.plain += coding.map_or(piece.data.len() as u64, |coding| coding.len.into());
        let at = self.pieces.len() as u32;
        self.codings.extend(coding.map(|coding| Coding { piece: at, ..coding }));
        self.pieces.push(piece);
    }

    /// Takes everything out, as a frame.
    pub(super) fn take(&mut self) -> Option<StreamFrame> {
        let Batch { pieces, codings, plain, .. } = std::mem::take(self);
        match (pieces.is_empty(), codings.is_empty()) {
            (true, _) => None,
            (false, true) => Some(StreamFrame::Content(pieces)),
            (false, false) => {
                let plain = u32::try_from(plain).unwrap_or(u32::MAX);
                Some(StreamFrame::Coded { plain, codings, pieces })
            }
        }
    }
}

fn weight(piece: &Piece) -> usize {
    piece.data.len() + PIECE_HEAD
}
