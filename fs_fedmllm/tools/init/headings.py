"""Words in the headings of people's tables, by what such a column holds, in several languages and without accents."""

from __future__ import annotations

from collections.abc import Collection

from fs_fedmllm.data import column_words


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LABEL = _words(
    "label labels class classes category categories target y gold diagnosis outcome status grade severity infected "
    "finding verdict sentiment topic damage infection stage type species klasse kategorie diagnose ergebnis "
    "schweregrad diagnostic etiquette classe categorie gravite tani etiket sinif kategori sonuc 诊断 标签 类别 分类"
)
#: Where nothing is called a label, what else may hold one.
LIKE_LABEL = _words(
    "disease condition illness pathology risk priority urgency triage decision defect quality rating emotion intent "
    "krankheit infektion zustand dringlichkeit maladie urgence hastalik aciliyet"
)
#: Who or what several rows are of; before anything that one of them has several of.
PERSON = _words(
    "patient patients subject person participant animal user pid mrn patientin patienten patientennummer "
    "hasta 患者 病人"
)
GROUP = PERSON | _words(
    "case study visit tweet specimen author speaker group encounter family fall owner claim policy sequence seq "
    "burst halter besitzer dossier"
)
SITE = _words(
    "hospital hospitals site sites clinic centre center institution institute ward department station device scanner "
    "location region client clients organisation organization school city country event practice camera "
    "district province borough branch deployment trap plot farm "
    "krankenhaus klinik standort abteilung praxis filiale hopital "
    "etablissement hastane merkez sube 医院 科室 中心"
)
SPLIT = _words("split splits subset partition fold set")
QUESTION = _words("question questions query frage soru 问题")
PAIR = _words("input output")
ANSWER = _words("answer answers response reference antwort reponse cevap 答案 回答")
#: Where nothing is called an answer, what else may hold one.
LIKE_ANSWER = _words("label labels target output completion")
ID = _words("id uid uuid key nr no nummer numero 编号")
#: A number of somebody's that results should not be full of.
PRIVATE = _words("phone telephone tel telefon mobile handy fax iban account konto ssn email mail")
IMAGE = column_words.IMAGE_WORDS | _words("bild bilder foto fotos aufnahme goruntu resim 图像 图片 照片 影像")
PATH = column_words.PATH_WORDS | _words("datei dateiname pfad fichier chemin dosya yol 路径 文件")
#: A picture with one of these shows what somebody drew, or less than another one does.
DRAWN = _words(
    "mask masks segmentation seg annotation annotated overlay heatmap saliency depth gt maske masque thumb thumbnail "
    "preview"
)
TEXT = column_words.TEXT_WORDS | _words(
    "befund bericht beschreibung notiz notizen bemerkung bemerkungen anmerkung kommentar texte observation "
    "observations remarque commentaire metin aciklama rapor 文本 描述 报告 备注"
)


def has(name: str, words: Collection[str]) -> bool:
    """Whether one of the words is in a column's name."""
    return not column_words.words_of(name).isdisjoint(words)
