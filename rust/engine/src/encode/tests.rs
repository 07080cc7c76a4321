use super::format::PixelFormat;
use super::frame::{Frame, Scroll};
use super::{Area, tight, zrle};

fn rgb888() -> PixelFormat {
    PixelFormat {
        bits: 32,
        depth: 24,
        big_endian: false,
        max: [255; 3],
        shift: [16, 8, 0],
    }
}

fn area(x: usize, y: usize, width: usize, height: usize) -> Area {
    Area {
        x,
        y,
        width,
        height,
    }
}

/// A frame whose pixel at (x, y) is `colour(x, y)`.
fn painted(width: usize, height: usize, colour: impl Fn(usize, usize) -> u32) -> Frame {
    let mut frame = Frame::new(width, height).unwrap();
    let data = pixels(width, height, colour);
    frame
        .update(area(0, 0, width, height), &data, false)
        .unwrap();
    frame
}

fn pixels(width: usize, height: usize, colour: impl Fn(usize, usize) -> u32) -> Vec<u8> {
    (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .flat_map(|(x, y)| colour(x, y).to_le_bytes())
        .collect()
}

fn zrle_of(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    let all = area(0, 0, frame.width(), frame.height());
    zrle::encode(frame, all, &rgb888().painter().unwrap(), &mut out);
    out
}

#[test]
fn an_update_that_changes_nothing_is_no_damage() {
    let mut frame = painted(64, 64, |x, _| u32::try_from(x).unwrap());
    let data = pixels(64, 64, |x, _| u32::try_from(x).unwrap() | 0xAB00_0000);
    assert_eq!(
        frame.update(area(0, 0, 64, 64), &data, true),
        Some((None, vec![]))
    );
}

#[test]
fn touching_tiles_are_one_rectangle() {
    let mut frame = painted(128, 64, |_, _| 0);
    let data = pixels(128, 64, |x, y| {
        u32::from((40..90).contains(&x) && (20..40).contains(&y))
    });
    let (_, changed) = frame.update(area(0, 0, 128, 64), &data, false).unwrap();
    assert_eq!(changed, [area(32, 16, 64, 32)]);
}

#[test]
fn pixels_of_another_size_are_refused() {
    let mut frame = Frame::new(16, 16).unwrap();
    assert_eq!(frame.update(area(0, 0, 16, 16), &[0; 16], false), None);
    assert_eq!(frame.update(area(8, 0, 16, 1), &[0; 64], false), None);
}

#[test]
fn a_scrolled_screen_is_a_copy_and_its_last_line() {
    let noise = |x: usize, y: usize| u32::try_from((x * 7 + y * 131) % 0xFF_FFFF).unwrap();
    let mut frame = painted(160, 200, noise);
    let data = pixels(160, 200, |x, y| if y < 184 { noise(x, y + 16) } else { 0 });
    let (scroll, changed) = frame.update(area(0, 0, 160, 200), &data, true).unwrap();
    assert_eq!(
        scroll,
        Some(Scroll {
            from: 16,
            to: 0,
            height: 184
        })
    );
    assert!(changed.iter().all(|a| a.y >= 176), "{changed:?}");
    assert_eq!(frame.row(area(0, 0, 160, 200), 183)[5], noise(5, 199));
}

#[test]
fn a_screen_that_scrolls_down_is_copied_from_its_end() {
    let noise = |x: usize, y: usize| u32::try_from((x * 7 + y * 131) % 0xFF_FFFF).unwrap();
    let mut frame = painted(80, 120, noise);
    let data = pixels(80, 120, |x, y| if y < 10 { 1 } else { noise(x, y - 10) });
    let (scroll, changed) = frame.update(area(0, 0, 80, 120), &data, true).unwrap();
    assert_eq!(
        scroll,
        Some(Scroll {
            from: 0,
            to: 10,
            height: 110
        })
    );
    assert!(changed.iter().all(|a| a.y + a.height <= 16), "{changed:?}");
}

#[test]
fn formats_that_do_not_fit_are_refused() {
    let mut format = rgb888();
    format.bits = 24;
    assert!(!format.is_valid());
    let mut format = rgb888();
    format.shift = [40, 8, 0];
    assert!(!format.is_valid());
    let mut format = rgb888();
    format.bits = 8;
    assert!(!format.is_valid());
    let mut format = rgb888();
    format.max = [200, 255, 255];
    assert!(!format.is_valid());
}

#[test]
fn pixels_of_16_bits_in_either_order() {
    let mut format = PixelFormat {
        bits: 16,
        depth: 16,
        big_endian: false,
        max: [31, 63, 31],
        shift: [11, 5, 0],
    };
    let mut out = Vec::new();
    format.painter().unwrap().put(0xFF_0000, &mut out);
    format.big_endian = true;
    format.painter().unwrap().put(0xFF_0000, &mut out);
    assert_eq!(out, [0x00, 0xF8, 0xF8, 0x00]);
}

#[test]
fn compact_pixels_leave_out_the_unused_byte() {
    let mut format = rgb888();
    for (big_endian, shift, expected) in [
        (false, [16, 8, 0], [3, 2, 1]),
        (true, [16, 8, 0], [1, 2, 3]),
        (false, [24, 16, 8], [3, 2, 1]),
        (true, [24, 16, 8], [1, 2, 3]),
    ] {
        format.big_endian = big_endian;
        format.shift = shift;
        let mut out = Vec::new();
        format.painter().unwrap().put_compact(0x01_0203, &mut out);
        assert_eq!(out, expected);
    }
}

#[test]
fn zrle_tile_of_one_colour() {
    assert_eq!(zrle_of(&painted(64, 64, |_, _| 0x01_0203)), [1, 3, 2, 1]);
}

#[test]
fn zrle_tile_of_two_colours_is_packed() {
    let tile = zrle_of(&painted(8, 2, |x, _| u32::try_from(x % 2).unwrap()));
    assert_eq!(tile, [2, 0, 0, 0, 1, 0, 0, 0x55, 0x55]);
}

#[test]
fn zrle_tile_of_long_runs_has_their_lengths() {
    let tile = zrle_of(&painted(64, 64, |_, y| [7, 8][y / 16 % 2]));
    let run = |index: u8| [index | 0x80, 255, 255, 255, 255, 3]; // 1024 = 1 + 4 * 255 + 3
    let head = [130, 7, 0, 0, 8, 0, 0];
    assert_eq!(
        tile,
        [&head[..], &run(0), &run(1), &run(0), &run(1)].concat()
    );
}

#[test]
fn zrle_tile_of_noise_is_raw() {
    let tile = zrle_of(&painted(16, 16, |x, y| {
        u32::try_from(x * 1000 + y * 77).unwrap()
    }));
    assert_eq!((tile[0], tile.len()), (0, 1 + 16 * 16 * 3));
}

#[test]
fn tight_pieces_of_each_kind() {
    let painter = rgb888().painter().unwrap();
    let kinds = |colour: &dyn Fn(usize, usize) -> u32| {
        let frame = painted(128, 100, colour);
        let pieces = tight::encode(&frame, area(0, 0, 128, 100), &painter);
        let [piece] = &pieces[..] else {
            panic!("{} pieces", pieces.len())
        };
        (piece.head.clone(), piece.stream, piece.body.len())
    };
    assert_eq!(kinds(&|_, _| 0x01_0203), (vec![0x80, 1, 2, 3], None, 0));
    assert_eq!(
        kinds(&|x, _| u32::try_from(x % 2).unwrap()),
        (vec![0x50, 1, 1, 0, 0, 0, 0, 0, 1], Some(1), 1600)
    );
    let (head, stream, length) = kinds(&|x, _| u32::try_from(x).unwrap());
    assert_eq!(
        (head.len(), head[2], stream, length),
        (3 + 128 * 3, 127, Some(2), 12800)
    );
    let noise = kinds(&|x, y| u32::try_from(x * 1000 + y).unwrap());
    assert_eq!(noise, (vec![0], Some(0), 38400));
}
