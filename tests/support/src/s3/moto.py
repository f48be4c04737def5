"""An S3 server of moto's, and the hands of somebody who owns the buckets. Ends when its standard input does.

Prints where it is, then answers each line {"call": …, "arguments": {…}} of its input with one line.
"""

import base64
import json
import sys
import threading

import boto3
from botocore.exceptions import ClientError
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Silent(WSGIRequestHandler):
    # Otherwise each answer waits for the acknowledgement of its head.
    disable_nagle_algorithm = True

    def log(self, *_):
        pass


def certificate(directory):
    """Writes a certificate for this address that nobody else has signed."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "moto")])
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    paths = directory + "/cert.pem", directory + "/key.pem"
    with open(paths[0], "wb") as file:
        file.write(built.public_bytes(pem))
    with open(paths[1], "wb") as file:
        no_password = serialization.NoEncryption()
        file.write(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password))
    return paths


def plain(value):
    """Returns what JSON knows."""
    return base64.b64encode(value.read()).decode() if hasattr(value, "read") else str(value)


def main():
    tls = certificate(sys.argv[1]) if len(sys.argv) > 1 else None
    app = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Silent, ssl_context=tls)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="owner",
        aws_secret_access_key="owner",
        verify=tls[0] if tls else None,
    )
    print(endpoint, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(client, asked["call"])(**asked["arguments"])
        except ClientError as error:
            answer = {"error": error.response["Error"]["Code"]}
        print(json.dumps(answer, default=plain), flush=True)


main()
