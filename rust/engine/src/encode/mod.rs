//! The screen as consoles send it: what changed between two looks at it (`frame`), and pixels as
//! RFB encodes them (`zrle`, `tight`; RFC 6143, §7.7, and the community's rfbproto for Tight).
//!
//! Compression by zlib is the caller's: the streams live as long as a viewer.  Pixels in are
//! BGRX, 4 bytes each, rows packed.  Not encoded: Tight's gradient filter and JPEG, Hextile, RRE.

pub mod format;
pub mod frame;
pub mod tight;
pub mod zrle;

#[cfg(test)]
mod tests;

/// A part of the screen, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    pub x: usize,
    pub y: usize,
    pub width: usize,
    pub height: usize,
}

impl Area {
    /// In pieces of at most `width` by `height`, row by row.
    pub fn pieces(self, width: usize, height: usize) -> impl Iterator<Item = Area> {
        let rows = (0..self.height).step_by(height.max(1));
        rows.flat_map(move |y| {
            (0..self.width).step_by(width.max(1)).map(move |x| Area {
                x: self.x + x,
                y: self.y + y,
                width: width.min(self.width - x),
                height: height.min(self.height - y),
            })
        })
    }

    /// What of it lies on a screen of this size.
    #[must_use]
    pub fn within(self, width: usize, height: usize) -> Area {
        let x = self.x.min(width);
        let y = self.y.min(height);
        Area {
            x,
            y,
            width: self.width.min(width - x),
            height: self.height.min(height - y),
        }
    }

    pub fn is_empty(self) -> bool {
        self.width == 0 || self.height == 0
    }
}
