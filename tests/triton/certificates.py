"""A certificate authority for one test run: PEM files for servers and callers, made in a folder and gone with it."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def name(common):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


class Authority:
    def __init__(self, folder, common="refrain tests"):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = name(common)
        certificate = (
            self._builder(self.subject, self.key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.certificate = self._write("ca", certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, common, *alternatives, client=False):
        """Files of a certificate and its key for these alternative names."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        certificate = (
            self._builder(name(common), key)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self._write(f"{common}.crt", certificate.public_bytes(serialization.Encoding.PEM)), self._write(f"{common}.key", pem)

    def server(self):
        return self.issue("server", x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))

    def caller(self, who):
        return self.issue(who, x509.UniformResourceIdentifier(f"spiffe://tests.example/{who}"), client=True)

    def _builder(self, subject, key):
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    def _write(self, file, pem):
        path = self.folder / file
        path.write_bytes(pem)
        return path
