"""DES against known answers."""

from ring3.display.rfb import des


def test_known_answers():
    # FIPS 81's example, the weak key, and SP 800-17's variable-plaintext set.
    for key, plain, cipher in (("133457799bbcdff1", "0123456789abcdef", "85e813540f0ab405"),
                               ("0101010101010101", "8000000000000000", "95f8a5e5dd31d900"),
                               ("0101010101010101", "0000000000000001", "166b40b44aba4bd6"),
                               ("7ca110454a1a6e57", "01a1d6d039776742", "690f5b0d9a26939b"),
                               ("0131d9619dc1376e", "5cd54ca83def57da", "7a389d10354bd271")):
        assert des.encrypt(bytes.fromhex(key), bytes.fromhex(plain)).hex() == cipher


def test_vnc_password_is_cut_after_eight_characters():
    challenge = bytes(range(16))
    assert des.vnc_response("password", challenge) == des.vnc_response("password and more", challenge)
    assert des.vnc_response("password", challenge) != des.vnc_response("passwor", challenge)


def test_vnc_key_is_bit_reversed():
    assert des.vnc_response("\x80", bytes(8)) == des.encrypt(b"\x01" + bytes(7), bytes(8))
