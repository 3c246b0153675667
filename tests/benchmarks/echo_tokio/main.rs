// Echo benchmark: tokio, with a task for each connection, all of them on one thread.
use std::os::unix::io::FromRawFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn answer(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut data = vec![0; 64 * 1024];
    loop {
        let n = connection.read(&mut data).await?;
        if n == 0 {
            return Ok(());
        }
        connection.write_all(&data[..n]).await?;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let number = std::env::args().nth(1).unwrap().parse().unwrap();
    let inherited = unsafe { std::net::TcpListener::from_raw_fd(number) };
    inherited.set_nonblocking(true)?;
    let listener = TcpListener::from_std(inherited)?;
    loop {
        let (connection, _) = listener.accept().await?;
        tokio::spawn(answer(connection));
    }
}
