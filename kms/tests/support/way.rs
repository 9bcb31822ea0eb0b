//! A way to the database that can be cut, as a network would be.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tokio::{net::TcpListener, sync::watch};

/// A way to the database that can be cut.
pub struct Way(watch::Sender<bool>);

impl Way {
    /// Answers also a file with the URL by that way, of the database that `url_file` is of.
    pub async fn to(port: u16, url_file: &Path) -> (Self, PathBuf) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = listener.local_addr().expect("bound").port();
        let open = watch::Sender::new(true);
        let mut opened = open.subscribe();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let Ok(mut to) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else {
                    continue;
                };
                if !*opened.borrow_and_update() {
                    continue;
                }
                let mut opened = opened.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                        _ = opened.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        let path = url_file.with_extension("way.url");
        fs::copy(url_file, &path).expect("copied with its rights");
        let url = fs::read_to_string(url_file).expect("there");
        fs::write(&path, url.replace(&format!(":{port}/"), &format!(":{own}/"))).expect("written");
        (Self(open), path)
    }

    pub fn set_open(&self, open: bool) {
        self.0.send_replace(open);
    }
}
