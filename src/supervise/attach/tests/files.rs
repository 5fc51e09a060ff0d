//! The socket and the symlink.

use super::*;

#[test]
fn the_socket_has_mode_0700_replaces_a_stale_one_and_has_a_path_of_any_length() {
    let dir = TempDir::new();
    let long = (0..6).fold(dir.0.clone(), |path, _| path.join("d".repeat(60)));
    fs::create_dir_all(&long).unwrap();
    let path = long.join("attach");
    let mut stale = File::create(&path).unwrap();
    stale.write_all(b"stale").unwrap();
    let socket = listen_in(&long).unwrap();
    let metadata = fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o700);
    let again = listen_in(&long).unwrap();
    drop(socket.file);
    assert!(path.exists(), "an old guard spares a new monitor's socket");
    drop(again.file);
    assert!(!path.exists());
}

#[test]
fn the_symlink_is_a_byte_short_where_conmons_is_and_is_removed() {
    let dir = TempDir::new();
    let room = 107 - dir.0.as_os_str().len() - 1;
    for (len, expected) in [(room - 1, room - 1), (room, room - 1), (room + 1, room + 1)] {
        let guard = link(&dir.0, OsStr::new(&"u".repeat(len)), Path::new("/some/bundle")).unwrap();
        let path = dir.0.join("u".repeat(expected));
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("/some/bundle"));
        let replaced = link(&dir.0, OsStr::new(&"u".repeat(len)), Path::new("/other")).unwrap();
        drop(guard);
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("/other"));
        drop(replaced);
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
    }
}
