"""The simple 1-RTT handshake of RFC 8448, section 3: its application secrets, and records under them."""

from __future__ import annotations

SUITE = "TLS_AES_128_GCM_SHA256"
CLIENT = bytes.fromhex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
SERVER = bytes.fromhex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")
SECRETS = {"CLIENT_TRAFFIC_SECRET_0": CLIENT, "SERVER_TRAFFIC_SECRET_0": SERVER, "EXPORTER_SECRET": b"?"}

KEYS = {
    "client": (CLIENT, "17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9"),
    "server": (SERVER, "9f02283b6c9c07efc26bb9f2ac92e356", "cf782b88dd83549aadf1e984"),
}
"""Secret, key and IV of each side."""

CONTENT = bytes(range(50))
"""The application data of each side."""

CLIENT_DATA = bytes.fromhex(
    "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f"
    "5a6292a2977014bd1e3deae63aeebb21694915e4"
)
"""The client's first data record, number 0 under its secret."""

SERVER_DATA = bytes.fromhex(
    "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8fcc49c4b"
    "f2e5f0a21c0047c2abf332540dd032e167c2955d"
)
"""The server's, number 1: after a session ticket."""

CLIENT_CLOSE = bytes.fromhex("1703030013c9872760655666b74d7ff1153efd6db6d0b0e3")
"""The client's close_notify, number 1."""

SERVER_CLOSE = bytes.fromhex("1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9")
"""The server's, number 2."""
